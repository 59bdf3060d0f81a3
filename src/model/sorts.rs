//! Every sort of finding: its name, how bad it is, why it matters. `docs/runbooks/doctor.md` has the same list.

use super::finding::Sort;

macro_rules! sorts {
    ($($constant:ident $name:literal $severity:literal $why:literal)*) => {
        $(#[doc = concat!("`", $name, "`: ", $why, ".")]
        pub const $constant: Sort = Sort { name: $name, severity: $severity, why: $why };)*

        /// All of them.
        pub const ALL: &[Sort] = &[$($constant),*];
    };
}

sorts! {
    // the schema
    SCHEMA_MISSING "schema_missing" "error" "nothing of Reveille works before it is installed"
    SCHEMA_BEHIND "schema_behind" "error" "`run` and `work` do not start: they ask for the schema that this program was made for"
    SCHEMA_TOO_NEW "schema_too_new" "error" "a newer reveille was here, and this one must not guess what it changed"
    SCHEMA_DRIFTED "schema_drifted" "error" "the tables may not be those that this program was made for, and `migrate up` refuses"
    FUNCTION_MISSING "function_missing" "error" "`run` and `work` do not start, and whoever calls it gets an error"
    FUNCTION_DRIFTED "function_drifted" "error" "somebody has replaced it by hand: nobody has tested what it does now"
    TRIGGER_MISSING "trigger_missing" "error" "what it does at every write is not done: events wake nobody, moves are not checked, or a table's writes become no events"
    TRIGGER_DISABLED "trigger_disabled" "error" "what it does at every write is not done: events wake nobody, moves are not checked, or a table's writes become no events"
    INDEX_MISSING "index_missing" "error" "what was a step through an index reads the whole table, at every claim or pass"
    INDEX_INVALID "index_invalid" "error" "an index that is not valid costs every write, and no query uses it"
    // rights
    GRANT_MISSING "grant_missing" "error" "whoever has the role gets an error where the work is done"
    ROLE_MISSING "role_missing" "warning" "rights that should have gone to it went to nobody"
    ROLE_WITHOUT_RIGHTS "role_without_rights" "warning" "it may neither dispatch, claim, decide nor look"
    // the way to the server
    POOLER_IN_THE_WAY "pooler_in_the_way" "error" "sessions are shared: LISTEN hears nothing, and the lock of `migrate` holds nobody off"
    LISTEN_DEAF "listen_deaf" "warning" "no notification comes through, so work is found by polling only"
    CLOCK_SKEW "clock_skew" "warning" "the database's clock decides, but logs and `ago` of this machine mislead"
    NOTIFY_QUEUE_FILLING "notify_queue_filling" "warning" "when it is full, every commit that notifies fails"
    // gates and the parts that live
    GATE_CLOSED "gate_closed" "warning" "what waits behind it stays where it is: events become no jobs, jobs are not claimed, or tables' writes become no events"
    BRIDGE_CLOSED "bridge_closed" "info" "nothing is lost, but events wait for the next poll"
    EXECUTOR_SILENT "executor_silent" "error" "what it had to do is not done, and nobody else may beat for it"
    EXECUTOR_NEVER_BEAT "executor_never_beat" "warning" "a name was registered for a program that has never run"
    DISPATCH_BEHIND "dispatch_behind" "error" "events wait, and become no jobs"
    SWEEP_BEHIND "sweep_behind" "warning" "events that have lost their place in the reading order are not found again"
    WAS_SILENT "was_silent" "info" "what waited meanwhile came late; a program that falls silent again and again is not well"
    WORK_GAP "work_gap" "info" "either there was nothing to do, or nobody called the program: what was made meanwhile tells which"
    // work
    NOBODY_ALIVE "nobody_alive" "error" "jobs are due, and no executor of their kind beats"
    LEASES_ENDED "leases_ended" "warning" "their executors went away, and nobody frees the jobs"
    DEAD_LETTERS_OPEN "dead_letters_open" "warning" "somebody has to decide whether they are tried again"
    POISON_JOB "poison_job" "warning" "whoever runs it goes away without a word, and the next one will, too"
    KEY_BLOCKED "key_blocked" "warning" "jobs of one ordering key run one after the other: those behind it wait"
    DISPATCH_ERRORS "dispatch_errors" "warning" "these events made no job of these consumers"
    DECISIONS_MISSING "decisions_missing" "error" "somebody waits for work that nobody was given"
    DECISIONS_HELD "decisions_held" "warning" "its events get no job before, and are not given up"
    AUDIT_BEHIND "audit_behind" "warning" "an event of later than that, of which no job was made, would not be noticed"
    BACKFILL_FAILED "backfill_failed" "warning" "somebody asked for these jobs, and they are not made"
    BACKFILL_STALLED "backfill_stalled" "warning" "somebody asked for these jobs, and they are not made"
    BACKFILL_PAUSED "backfill_paused" "warning" "somebody asked for these jobs, and they are not made"
    // consumers, events, routes, workflows, schedules
    CONSUMER_NEVER_MATCHES "consumer_never_matches" "warning" "a filter that nothing passes is most likely misspelt"
    CONSUMER_NO_EXECUTOR "consumer_no_executor" "warning" "its jobs wait until an executor of their kind lives"
    UNKNOWN_KIND "unknown_kind" "warning" "its jobs may wait for ever"
    UNKNOWN_TEMPLATE "unknown_template" "error" "what it asks for is not done"
    EVENT_TYPE_UNREGISTERED "event_type_unregistered" "warning" "fn_event_emit and routes refuse it, and nobody has agreed on what it means"
    EVENT_TYPE_REFUSED "event_type_refused" "error" "a CHECK of event_outbox refuses every event of it"
    TABLE_MISSING "table_missing" "error" "what happens in the table becomes no event, or its writes are refused where the route is fail_closed"
    TABLE_UNFIT "table_unfit" "error" "what happens in the table becomes no event, or its writes are refused where the route is fail_closed"
    KEY_MISSING "key_missing" "error" "what happens in the table becomes no event, or its writes are refused where the route is fail_closed"
    COLUMN_MISSING "column_missing" "error" "what happens in the table becomes no event, or its writes are refused where the route is fail_closed"
    COLUMN_DENIED "column_denied" "error" "what happens in the table becomes no event, or its writes are refused where the route is fail_closed"
    TYPE_INACTIVE "type_inactive" "error" "what happens in the table becomes no event, or its writes are refused where the route is fail_closed"
    CONSENT_MISSING "consent_missing" "error" "what happens in the table becomes no event: nothing travels that its owner has not agreed to"
    TRIGGER_LEFT_OVER "trigger_left_over" "warning" "it costs every write a little, and works again when the route does"
    FAULTS "faults" "warning" "what happened in the table is not in event_outbox, and nobody will be told of it"
    APPROVAL_WAITING "approval_waiting" "error" "nothing behind it runs until somebody decides"
    EVENT_WAITING "event_waiting" "error" "nothing behind it runs until the event comes"
    FAILED_HOLDING "failed_holding" "error" "they will not run until what failed is retried"
    TROUBLE "trouble" "error" "its work is not done until that is mended"
    LATE "late" "error" "its work is not done until that is mended"
    NO_SCHEDULER "no_scheduler" "error or warning" "its work is not done until that is mended"
    LAST_JOB_FAILED "last_job_failed" "warning" "what it is there for was not done"
    // the server and the host's tables
    SNAPSHOT_HELD "snapshot_held" "warning" "vacuum may not clean up behind it, claims get slower, and events of its time are read twice as carefully"
    TABLE_BLOATED "table_bloated" "warning" "every claim steps over the dead rows"
    REPEATS_DROPPED "repeats_dropped" "warning" "a second event of the same type about the same thing violates it: written with `on conflict do nothing` it vanishes without a word"
    LEGACY_READ "legacy_read" "warning" "it is not written any more, so that they see nothing new; it cannot go before they do"
    LEGACY_UNREAD "legacy_unread" "info" "it is a leftover that somebody will take for the truth"
    // the doctor
    COULD_NOT_LOOK "could_not_look" "warning or info" "what is not looked at may be wrong all the same"
}

/// The sort of that name.
pub fn named(name: &str) -> Option<&'static Sort> {
    ALL.iter().find(|sort| sort.name == name)
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn names_are_unique_and_severities_known() {
        for (place, sort) in ALL.iter().enumerate() {
            assert!(ALL[..place].iter().all(|other| other.name != sort.name), "{}", sort.name);
            assert!(
                sort.severity.split(" or ").all(|one| ["error", "warning", "info"].contains(&one)),
                "{}",
                sort.name
            );
        }
    }
}
