"""What the ancestor's services do with a message, and nothing else: `analyse` takes events, `keep` takes alerts.

Prints seconds by the clock and of CPU time from the first message to the last."""

import collections
import json
import sys
import time

import pika
import psycopg

WINDOW, THRESHOLD = 60.0, 3
SENSITIVE = {"/etc/sudoers", "/root/.ssh/authorized_keys", "/etc/shadow", "/etc/passwd"}
INSERT = """INSERT INTO alerts VALUES (%s, %s, %s, now(), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
    %s, %s)"""


class Analysis:
    def __init__(self):
        self.failures = collections.defaultdict(collections.deque)
        self.alerts = 0

    def take(self, event):
        if event["event_type"] == "user_login" and event["action_result"] == "FAILURE":
            now, failures = time.time(), self.failures[(event["user_id"], event["server_hostname"])]
            failures.append(now)
            while failures and failures[0] < now - WINDOW:
                failures.popleft()
            self.alerts += len(failures) >= THRESHOLD
        if event["event_type"] == "file_modified" and event.get("resource") in SENSITIVE:
            self.alerts += 1


class Keeping:
    def __init__(self, database):
        self.connection = psycopg.connect(database)

    def take(self, alert):
        rule, actor, resource = alert["analysis_rule"], alert["triggered_by"], alert["impacted_resource"]
        row = (
            alert["alert_id"], alert["correlation_id"], alert["timestamp"], alert["alert_name"], alert["alert_type"],
            alert["severity"], alert["description"], alert["source_service_name"], rule["rule_id"], rule["rule_name"],
            actor.get("actor_type"), actor.get("actor_id"), actor.get("client_ip"), resource.get("resource_type"),
            resource.get("resource_id"), resource.get("server_hostname"), alert["action_observed"], json.dumps(rule),
            json.dumps(actor), json.dumps(resource), json.dumps(alert["metadata"]), json.dumps(alert["raw_event_data"]),
        )
        with self.connection.cursor() as cursor:
            cursor.execute(INSERT, row)
        self.connection.commit()


def main():
    what, broker, database, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    queue, service = ("audit_events", Analysis()) if what == "analyse" else ("audit_alerts", Keeping(database))
    channel = pika.BlockingConnection(pika.URLParameters(broker)).channel()
    channel.queue_declare(queue=queue, durable=True)
    taken, begin, cpu = 0, None, None

    def on_message(channel, method, _properties, body):
        nonlocal taken, begin, cpu
        if begin is None:
            begin, cpu = time.perf_counter(), time.process_time()
        service.take(json.loads(body))
        channel.basic_ack(delivery_tag=method.delivery_tag)
        taken += 1
        if taken == count:
            channel.stop_consuming()

    channel.basic_consume(queue=queue, on_message_callback=on_message)
    channel.start_consuming()
    print(time.perf_counter() - begin, time.process_time() - cpu)


main()
