DROP TABLE storm, alert, dirty_group, detection;
