//! Small charts, drawn on the server; each says in words what it shows.

/// Sixty minutes as bars, the last is this one.
#[derive(Debug)]
pub(super) struct Bars {
    pub(super) title: String,
    pub(super) total: i64,
    pub(super) words: String,
    pub(super) tone: &'static str,
    pub(super) drawn: Vec<Bar>,
    /// Minutes with something, newest first: how long ago, and how many.
    pub(super) minutes: Vec<(String, i64)>,
}

/// One bar in the coordinates of its picture.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) x: usize,
    pub(super) y: i64,
    pub(super) height: i64,
}

/// Height of a picture.
const HEIGHT: i64 = 40;

impl Bars {
    /// `minutes`: the number of each minute by how long ago it was.
    pub(super) fn new(title: &str, tone: &'static str, minutes: &[i64; 60]) -> Self {
        let peak = minutes.iter().copied().max().unwrap_or(0);
        let total: i64 = minutes.iter().sum();
        let bar = |(ago, &count): (usize, &i64)| {
            (count > 0).then(|| {
                let height = (count * HEIGHT / peak.max(1)).max(2);
                Bar { x: (59 - ago) * 4, y: HEIGHT - height, height }
            })
        };
        let ago = |(ago, &count): (usize, &i64)| {
            let words = if ago == 0 { "this minute".to_owned() } else { format!("{ago} min ago") };
            (count > 0).then_some((words, count))
        };
        let words = match total {
            0 => "none in the last hour".to_owned(),
            _ => format!("{total} in the last hour, at most {peak} a minute, {} in this minute", minutes[0]),
        };
        Self {
            title: title.to_owned(),
            total,
            words,
            tone,
            drawn: minutes.iter().enumerate().filter_map(bar).collect(),
            minutes: minutes.iter().enumerate().filter_map(ago).collect(),
        }
    }
}

/// How many stayed below which bound.
#[derive(Debug)]
pub(super) struct Histogram {
    pub(super) title: String,
    pub(super) words: String,
    pub(super) rows: Vec<Bucket>,
}

/// One row of it.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) label: String,
    pub(super) count: i64,
    /// Of 100.
    pub(super) width: i64,
}

impl Histogram {
    /// Rows as they are given.
    pub(super) fn new(title: impl Into<String>, counts: Vec<(String, i64)>) -> Self {
        let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let total: i64 = counts.iter().map(|(_, count)| count).sum();
        let row = |(label, count): (String, i64)| {
            let width = if count > 0 { (count * 100 / most.max(1)).max(1) } else { 0 };
            Bucket { label, count, width }
        };
        Self {
            title: title.into(),
            words: if total == 0 { "none yet".to_owned() } else { format!("{total} in all") },
            rows: counts.into_iter().map(row).collect(),
        }
    }

    /// Buckets of milliseconds below `bounds`, and one above the last.
    pub(super) fn of_latency(
        title: &str,
        bounds: &[i32],
        counts: impl IntoIterator<Item = (i32, i64)>,
    ) -> Self {
        let shown = |ms: i32| if ms < 1000 { format!("{ms} ms") } else { format!("{} s", ms / 1000) };
        let mut rows: Vec<(String, i64)> =
            bounds.iter().map(|bound| (format!("under {}", shown(*bound)), 0)).collect();
        rows.push((bounds.last().map_or_else(String::new, |last| format!("{} and more", shown(*last))), 0));
        for (bucket, count) in counts {
            let at = usize::try_from(bucket).unwrap_or(0).min(rows.len() - 1);
            rows[at].1 += count;
        }
        let total: i64 = rows.iter().map(|(_, count)| count).sum();
        let mut seen = 0;
        let half = rows.iter().find(|(_, count)| {
            seen += count;
            total > 0 && seen * 2 >= total
        });
        let words = half.map(|(label, _)| format!("{total} jobs; half of them {label}"));
        let drawn = Self::new(title, rows.clone());
        Self { words: words.unwrap_or_else(|| "none yet".to_owned()), ..drawn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_they_count_and_none_is_invisible() {
        let mut minutes = [0; 60];
        (minutes[0], minutes[59]) = (1, 1000);
        let bars = Bars::new("events", "good", &minutes);
        let drawn: Vec<_> = bars.drawn.iter().map(|bar| (bar.x, bar.y, bar.height)).collect();
        assert_eq!(drawn, [(236, 38, 2), (0, 0, 40)]);
        assert_eq!(bars.words, "1001 in the last hour, at most 1000 a minute, 1 in this minute");
    }

    #[test]
    fn a_latency_says_where_half_of_the_jobs_are() {
        let histogram = Histogram::of_latency("wake", &[5, 1000], [(0, 1), (1, 2), (2, 1)]);
        assert_eq!(histogram.words, "4 jobs; half of them under 1 s");
        let labels: Vec<_> = histogram.rows.iter().map(|row| (row.label.as_str(), row.width)).collect();
        assert_eq!(labels, [("under 5 ms", 50), ("under 1 s", 100), ("1 s and more", 50)]);
    }
}
