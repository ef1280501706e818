//! What every store has to do: one suite, run against each implementation with `conformance!(maker)`.

pub(crate) mod alerts;
mod analysis;
mod checkpoints;
mod ledger;
mod nodes;
mod outbox;
mod people;
mod search;
mod trail;

pub(crate) use {
    alerts::*, analysis::*, checkpoints::*, ledger::*, nodes::*, outbox::*, people::*, search::*, trail::*,
};

use std::sync::Arc;

use super::{Arrival, Store, StoreOutcome};
use crate::testing::TestBatch;

/// Declares one test per function of the suite. `$make` gives a guard and a new, empty store; nothing where there can't
/// be one, having said so.
macro_rules! conformance {
    ($make:path: $($name:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some((_guard, store)) = $make() else { return };
                $crate::store::conformance::$name(store).await;
            }
        )+
    };
}

/// Every function of the suite.
macro_rules! conformance_suite {
    ($make:path) => {
        $crate::store::conformance::conformance! { $make:
            batches_in_order_advance_stored_through
            a_batch_is_stored_once_however_often_and_concurrently_it_comes
            overtaking_batches_are_ranges_until_the_hole_is_filled
            other_bytes_under_a_taken_number_are_kept_apart_and_flagged
            a_broken_link_is_stored_and_flagged
            a_hole_below_what_the_node_holds_is_lost_until_it_comes_after_all
            a_state_settles_what_the_node_holds_no_more
            a_second_successor_of_one_epoch_is_a_fork
            a_new_epoch_without_memory_of_the_old_one_is_flagged
            a_first_epoch_that_arrives_after_its_successors_is_not_flagged
            an_unread_batch_is_kept_and_comes_up_once_it_can_be_read
            an_evicted_batch_counts_as_stored_and_its_payload_is_kept_if_it_comes_after_all
            a_fold_stands_for_all_its_numbers
            a_chain_is_read_back_in_order_of_numbers
            age_prunes_whole_days_and_declares_it
            bytes_prune_the_oldest_parts_first_and_never_the_newest
            a_checkpoint_replaces_rows_and_a_later_one_carries_it_on
            headers_stay_as_long_again_as_payloads_unless_bytes_press
            below_a_checkpoint_a_batch_sent_again_is_a_duplicate_and_nothing_is_freed_by_a_wrong_digest
            epochs_are_told_apart_after_their_rows_are_gone
            a_row_on_which_detections_rest_stays_as_long_as_they_do
            rows_that_something_is_due_on_hold_a_checkpoint_back
            owed_numbers_hold_a_checkpoint_back_and_lost_ones_are_counted_in_it
            folds_are_replaced_like_the_batches_that_they_stand_for
            a_race_of_analysers_has_one_winner
            a_touched_group_comes_up_again
            a_lock_that_ran_out_can_be_taken_by_another
            detections_are_read_in_event_time_order
            a_late_clock_step_makes_a_boot_due_for_a_rewrite
            priming_adds_and_rewriting_replaces
            old_detections_expire
            the_same_alerts_of_a_storm_stand_whatever_the_order
            a_rewrite_raises_nothing_that_a_storm_kept_back
            standing_alerts_are_written_once_and_amended
            alerts_are_inserted_together_once_and_counted_as_they_are_listed
            a_successor_inherits_what_people_said
            people_set_status_and_the_trail_tells
            alerts_are_paged_newest_first
            an_alert_that_is_opened_is_announced_to_everybody_once
            an_announcement_is_made_by_one_until_its_time_is_up
            many_take_announcements_at_once_and_each_is_taken_once
            events_are_found_newest_first_in_pages_of_any_size_and_budget
            every_filter_finds_what_a_full_scan_finds
            a_rare_token_opens_few_batches
            a_search_does_not_find_what_is_pruned
            a_token_lets_in_as_many_nodes_as_it_says
            a_cloned_node_waits_for_approval
            rotated_keys_stay_known_with_what_they_may_still_say
            of_rotations_that_do_not_hold_none_is_followed
            a_retired_key_does_not_enrol_again
            more_keys_than_are_kept_of_a_node_are_refused
            losses_and_coverage_are_summed_per_node
            lag_is_the_newest_event_s_and_idle_time_is_none
            what_a_node_owes_falls_as_it_comes
            a_node_is_what_it_last_said_of_itself
            flags_count_close_and_open_again
            sessions_end_with_time_and_password
            api_tokens_expire_and_are_revoked
            settings_are_replaced
            every_change_is_in_the_trail_with_who_what_and_from_where
            what_changed_nothing_is_not_in_the_trail
            secrets_are_not_in_the_trail
            the_trail_is_one_chain_however_many_write_at_once
            the_trail_is_filtered_and_paged_newest_first
        }
    };
}

pub(crate) use {conformance, conformance_suite};

/// Stores batches at noon and returns what became of them.
async fn store(store: &Arc<dyn Store>, batches: &[&TestBatch]) -> Vec<StoreOutcome> {
    let arrivals: Vec<Arrival> = batches.iter().map(|batch| batch.arrival()).collect();
    store.store_batches(arrivals).await.unwrap().outcomes
}
