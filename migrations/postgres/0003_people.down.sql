DROP TABLE setting, audit_trail, api_token, session, person, join_token;
DROP FUNCTION audit_trail_is_append_only(), audit_trail_only_goes_on();
