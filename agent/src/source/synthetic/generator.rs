//! The ancestor's seven kinds of events, from a seed. Pure.

use std::fmt::Write as _;

use auditflow_event::{EventId, Timestamp};

pub(super) const HOSTS: [&str; 4] = ["edge-01", "edge-02", "build-01", "db-01"];
pub(super) const USERS: [&str; 5] = ["anna", "deploy", "backup", "guest", "mallory"];
const FILES: [&str; 5] = [
    "/etc/passwd",
    "/root/.ssh/authorized_keys",
    "/etc/nginx/nginx.conf",
    "/opt/app/settings.json",
    "/var/www/index.html",
];
const COMMANDS: [&str; 4] = [
    "/usr/bin/apt-get update",
    "/usr/sbin/useradd temp",
    "/usr/bin/systemctl restart nginx",
    "/usr/bin/journalctl -u k3s",
];
const SERVICES: [&str; 3] = ["nginx.service", "postgresql.service", "k3s-agent.service"];
const GROUPS: [&str; 3] = ["users", "operators", "sudo"];
const PROTOCOLS: [&str; 2] = ["ssh", "console"];

/// Makes events; the same seed makes the same ones.
#[derive(Debug)]
pub(super) struct Generator {
    random: u64,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: seed }
    }

    /// The next event as JSON text. No value needs escaping.
    pub(super) fn event(&mut self, id: EventId, at: Timestamp) -> String {
        let kind = self.below(7);
        let (event_type, severity, result) = [
            ("user_login", "WARNING", "FAILURE"),
            ("user_login", "INFO", "SUCCESS"),
            ("sudo_command", "INFO", "SUCCESS"),
            ("file_modified", "CRITICAL", "MODIFIED"),
            ("service_status_change", "INFO", "STARTED"),
            ("service_status_change", "WARNING", "STOPPED"),
            ("user_account_management", "INFO", "CREATED"),
        ][kind];
        let (host, user) = (self.one_of(&HOSTS), self.one_of(&USERS));
        let mut text = String::with_capacity(512);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{{\"event_id\":\"{id}\",\"timestamp\":\"{at}\",\"source_service\":\"audit-event-generator\",\
             \"server_hostname\":\"{host}\",\"event_type\":\"{event_type}\",\"severity\":\"{severity}\",\
             \"user_id\":\"{user}\",\"action_result\":\"{result}\",\"details\":{{"
        );
        let _ = self.details(kind, &mut text);
        text.push_str("}}");
        text
    }

    fn details(&mut self, kind: usize, text: &mut String) -> std::fmt::Result {
        match kind {
            0 | 1 => {
                let reason = if kind == 0 { "\"reason\":\"Incorrect password\"," } else { "" };
                let (last, protocol) = (100 + self.below(100), self.one_of(&PROTOCOLS));
                write!(text, "{reason}\"ip_address\":\"192.168.1.{last}\",\"protocol\":\"{protocol}\"")
            }
            2 => {
                let (command, home) = (self.one_of(&COMMANDS), self.one_of(&USERS));
                write!(text, "\"command\":\"{command}\",\"tty\":\"/dev/pts/0\",\"cwd\":\"/home/{home}\"")
            }
            3 => {
                let (file, old, new) = (self.one_of(&FILES), self.next() as u32, self.next() as u32);
                let change = self.below(2001) as i64 - 1000;
                write!(
                    text,
                    "\"resource\":\"{file}\",\"old_checksum\":\"{old:08x}\",\"new_checksum\":\"{new:08x}\",\
                     \"size_change_bytes\":{change}"
                )
            }
            4 => {
                let (service, state) = (self.one_of(&SERVICES), self.one_of(&["STOPPED", "FAILED"]));
                write!(
                    text,
                    "\"resource\":\"{service}\",\"previous_state\":\"{state}\",\"message\":\"Service successfully started.\""
                )
            }
            5 => {
                let service = self.one_of(&SERVICES);
                write!(
                    text,
                    "\"resource\":\"{service}\",\"previous_state\":\"RUNNING\",\"message\":\"Service unexpectedly stopped.\""
                )
            }
            _ => {
                let (number, group) = (self.next() as u32 & 0xff_ffff, self.one_of(&GROUPS));
                write!(
                    text,
                    "\"resource\":\"new_user_{number:06x}\",\"group\":\"{group}\",\"home_directory\":\"/home/new_user_{number:06x}\""
                )
            }
        }
    }

    fn one_of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len())]
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn events(seed: u64, count: u64) -> Vec<serde_json::Value> {
        let mut generator = Generator::new(seed);
        let event =
            |number| generator.event(EventId::counted(None, "synthetic", [0; 16], number), Timestamp::EPOCH);
        (0..count).map(event).map(|text| serde_json::from_str(&text).unwrap()).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_events_and_another_makes_others() {
        assert_eq!(events(7, 50), events(7, 50));
        assert_ne!(events(7, 50), events(8, 50));
    }

    #[test]
    fn all_seven_kinds_come_with_every_field_of_the_ancestor() {
        let contract = include_str!("../../../../docs/contracts/audit-event.schema.json");
        let contract = jsonschema::validator_for(&serde_json::from_str(contract).unwrap()).unwrap();
        let mut kinds = BTreeSet::new();
        for event in events(1, 500) {
            for name in ["event_id", "timestamp", "source_service", "server_hostname", "severity", "user_id"]
            {
                assert!(event[name].is_string(), "{name} is missing in {event}");
            }
            assert!(contract.is_valid(&event), "{event}");
            assert!(event["details"].as_object().is_some_and(|details| !details.is_empty()), "{event}");
            kinds.insert((event["event_type"].to_string(), event["action_result"].to_string()));
        }
        assert_eq!(kinds.len(), 7);
    }
}
