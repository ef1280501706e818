-- Alerts that the ancestor's notification service has kept in this database, in its table `alerts`, are alerts here as
-- well. Its table stays as it is, with its rows: its programs may go on with it. A table of another shape is not its.
DO $$
DECLARE
    theirs REGCLASS := to_regclass('alerts');
    shape TEXT[] := ARRAY['alert_id', 'correlation_id', 'timestamp', 'received_at', 'alert_name', 'alert_type', 'severity',
        'description', 'source_service_name', 'rule_id', 'rule_name', 'actor_type', 'actor_id', 'client_ip', 'resource_type',
        'resource_id', 'server_hostname', 'action_observed', 'analysis_rule_details', 'triggered_by_details',
        'impacted_resource_details', 'metadata', 'raw_event_data'];
BEGIN
    IF theirs IS NULL OR EXISTS (
        SELECT 1 FROM unnest(shape) AS wanted (name) WHERE NOT EXISTS (
            SELECT 1 FROM pg_attribute a WHERE a.attrelid = theirs AND a.attname = wanted.name AND NOT a.attisdropped)
    ) THEN
        RETURN;
    END IF;
    INSERT INTO alert (alert_id, correlation_id, fingerprint, rule, rule_id, rule_name, timestamp, received_at, changed_at,
        severity, alert_type, triggered_by, actor_id, impacted_resource, action_observed, source_service_name,
        server_hostname, description, evidence, events, metadata, machine)
    SELECT uuid_send(a.alert_id), coalesce(a.correlation_id, a.alert_id)::text, 'adopted ' || coalesce(a.rule_id, ''),
        json_build_object('id', coalesce(a.rule_id, ''), 'name', coalesce(a.rule_name, a.alert_name, ''),
            'description', coalesce(a.analysis_rule_details ->> 'rule_description', ''), 'version', '',
            'level', CASE upper(a.severity) WHEN 'CRITICAL' THEN 'critical' WHEN 'WARNING' THEN 'medium' ELSE 'low' END)::text,
        coalesce(a.rule_id, ''), coalesce(a.rule_name, a.alert_name, ''),
        (extract(epoch FROM a.timestamp) * 1000000)::bigint, (extract(epoch FROM received.at) * 1000000)::bigint,
        (extract(epoch FROM received.at) * 1000000)::bigint,
        upper(coalesce(a.severity, 'INFO')), coalesce(a.alert_type, ''),
        ((CASE WHEN jsonb_typeof(a.triggered_by_details) = 'object' THEN a.triggered_by_details ELSE '{}' END)
            || jsonb_strip_nulls(jsonb_build_object('actor_type', a.actor_type, 'actor_id', a.actor_id,
                'client_ip', host(a.client_ip))))::text,
        a.actor_id,
        ((CASE WHEN jsonb_typeof(a.impacted_resource_details) = 'object' THEN a.impacted_resource_details ELSE '{}' END)
            || jsonb_strip_nulls(jsonb_build_object('resource_type', a.resource_type, 'resource_id', a.resource_id,
                'server_hostname', a.server_hostname)))::text,
        coalesce(a.action_observed, ''), coalesce(a.source_service_name, ''), coalesce(a.server_hostname, ''),
        coalesce(a.description, ''), '[]',
        CASE WHEN jsonb_typeof(a.raw_event_data) = 'object' THEN jsonb_build_array(a.raw_event_data) ELSE '[]' END::text,
        (CASE WHEN jsonb_typeof(a.metadata) = 'object' THEN a.metadata ELSE '{}' END)::text, 'standing'
    FROM alerts a, LATERAL (SELECT coalesce(a.received_at, a.timestamp) AS at) AS received
    WHERE a.timestamp IS NOT NULL
    ON CONFLICT (alert_id) DO NOTHING;
END$$;
