//! Correlation: detections of one group over time become episodes, episodes become alerts.

pub mod episodes;
