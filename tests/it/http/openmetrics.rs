//! A strict reader of `OpenMetrics` text: whatever it does not understand is a mistake of the writer.

use std::collections::{BTreeMap, BTreeSet};

/// One family of series.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Family {
    pub(super) kind: String,
    pub(super) unit: Option<String>,
    pub(super) help: String,
    pub(super) samples: Vec<Sample>,
}

/// One line of a family.
#[derive(Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

impl Family {
    /// Names of all labels that its samples carry; `le` belongs to the type and is left out.
    pub(super) fn labels(&self) -> BTreeSet<String> {
        let names = self.samples.iter().flat_map(|sample| sample.labels.keys());
        names.filter(|name| *name != "le").cloned().collect()
    }
}

/// Everything that a scrape said.
#[derive(Debug)]
pub(crate) struct Scrape(pub(super) BTreeMap<String, Family>);

impl Scrape {
    pub(super) fn read(text: &str) -> Self {
        let text = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            let Some(comment) = line.strip_prefix("# ") else {
                let sample = sample(line);
                let family = families.get_mut(&current).unwrap_or_else(|| panic!("no family: {line}"));
                let suffixes: &[&str] = match family.kind.as_str() {
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    "info" => &["_info"],
                    _ => &[""],
                };
                let suffix = sample.name.strip_prefix(current.as_str());
                assert!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "{current}: {line}");
                family.samples.push(sample);
                continue;
            };
            let [what, name, words] = comment.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                panic!("not understood: {line}");
            };
            if what == "HELP" {
                assert!(!families.contains_key(name), "{name} is there twice");
                name.clone_into(&mut current);
            }
            assert_eq!(name, current, "{line}");
            let family = families.entry(current.clone()).or_default();
            match what {
                "HELP" => words.clone_into(&mut family.help),
                "TYPE" => words.clone_into(&mut family.kind),
                "UNIT" => family.unit = Some(words.to_owned()),
                _ => panic!("not understood: {line}"),
            }
        }
        let scrape = Self(families);
        scrape.check();
        scrape
    }

    fn check(&self) {
        for (name, family) in &self.0 {
            assert!(!family.help.is_empty() && !family.kind.is_empty(), "{name} lacks HELP or TYPE");
            assert!(family.help.ends_with('.') && !family.help.ends_with(".."), "{name}: {}", family.help);
            if let Some(unit) = &family.unit {
                assert!(name.ends_with(&format!("_{unit}")), "{name} does not end with its unit {unit}");
            }
            let mut seen = BTreeSet::new();
            for sample in &family.samples {
                assert!(seen.insert((&sample.name, &sample.labels)), "{sample:?} is there twice");
            }
        }
    }

    /// The value of a series, by its sample's name and its labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let samples = self.0.values().flat_map(|family| &family.samples);
        samples.into_iter().find(|one| one.name == name && one.labels == wanted).map(|one| one.value)
    }
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("not a sample: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("not a label: {line}"));
            let (value, after) = quoted(value).unwrap_or_else(|| panic!("not closed: {line}"));
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let number = rest.strip_prefix(' ').and_then(|number| number.parse().ok());
    Sample { name: name.to_owned(), labels, value: number.unwrap_or_else(|| panic!("no number: {line}")) }
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((place, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[place + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}
