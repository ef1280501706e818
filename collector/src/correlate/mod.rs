//! Correlation: detections of one group over time become episodes, episodes become alerts.
//!
//! Fed by `detect` (rows of matches) and by `analyse` (a group to look at again); feeds `alert`. The rows in the store
//! are the truth, `episodes` is the one function that decides, `group` fetches for it what it
//! needs to be right, through `windows`.

pub mod definition;
pub mod episodes;
pub mod found;
pub mod group;
pub mod row;
pub mod windows;
