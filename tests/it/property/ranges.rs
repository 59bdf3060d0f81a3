//! `fn_arrival_ranges` against its definition: what the newer snapshot sees and the older does not.

use proptest::prelude::*;
use tokio_postgres::Client;

/// The youngest transaction in use.
const NEWEST: u8 = 14;

/// Two snapshots of one history, the older first, and a place between them or none.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    old: Snapshot,
    new: Snapshot,
    place: Option<(u64, i64)>,
}

#[derive(Clone, Debug)]
struct Snapshot {
    /// One after the newest completed.
    xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    fn sees(&self, xid: u64) -> bool {
        xid < self.xmax && !self.running.contains(&xid)
    }

    fn text(&self) -> String {
        let xmin = self.running.first().unwrap_or(&self.xmax);
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        format!("{xmin}:{}:{}", self.xmax, running.join(","))
    }
}

/// Each transaction completes before the older snapshot, between the two, or after both.
pub(super) fn pair() -> impl Strategy<Value = Pair> {
    let completed = prop::collection::vec(0..3, usize::from(NEWEST));
    let place = prop::option::of((1..=u64::from(NEWEST), 0..4_i64));
    (completed, place).prop_map(|(completed, place)| {
        let xids = || (1..).zip(&completed);
        let snapshot = |moment: i32| {
            let xmax = xids().filter(|(_, at)| **at <= moment).map(|(xid, _)| xid + 1).max().unwrap_or(1);
            let running =
                xids().filter(|(xid, at)| **at > moment && *xid < xmax).map(|(xid, _)| xid).collect();
            Snapshot { xmax, running }
        };
        Pair { old: snapshot(0), new: snapshot(1), place }
    })
}

/// Compares the arrivals in the ranges, three a transaction, with the definition.
pub(super) async fn compare(client: &Client, pair: &Pair) {
    let query = "
        select x::bigint, s::bigint
        from fn_arrival_ranges($1::text::pg_snapshot, $2::text::pg_snapshot, $3::text::xid8, $4) with ordinality as
          r (low_tx, low_seq, high_tx, high_seq, n)
        join (select x::text::xid8 as tx, x, s from generate_series(1, $5) x, generate_series(1, 3) s) a
          on (a.tx, a.s) > (r.low_tx, r.low_seq) and (a.tx, a.s) < (r.high_tx, r.high_seq)
        order by n, x, s";
    let place = (pair.place.map(|(xid, _)| xid.to_string()), pair.place.map(|(_, seq)| seq));
    let newest = i32::from(NEWEST);
    let rows = client
        .query(query, &[&pair.old.text(), &pair.new.text(), &place.0, &place.1, &newest])
        .await
        .unwrap();
    let found: Vec<(u64, i64)> =
        rows.iter().map(|row| (u64::try_from(row.get::<_, i64>(0)).unwrap(), row.get(1))).collect();
    let arrivals = (1..=u64::from(NEWEST)).flat_map(|xid| (1..=3).map(move |seq| (xid, seq)));
    let wanted = arrivals.filter(|arrival| {
        let unread = pair.new.sees(arrival.0) && !pair.old.sees(arrival.0);
        unread && pair.place.is_none_or(|place| *arrival > place)
    });
    assert_eq!(found, wanted.collect::<Vec<_>>(), "in reading order");
}
