-- The ancestor's own table has them still.
DELETE FROM alert WHERE starts_with(fingerprint, 'adopted ');
