//! What a tool may be given: one table that is both the schema which agents read and the check of what they send.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::model::spelling;

/// One argument of a tool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) required: bool,
    pub(super) about: &'static str,
}

/// What an argument may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    /// The id of a job, an event, a workflow, a dead letter.
    Id,
    /// The token of a lease: digits in a string, because many programs round numbers as long as these.
    Token,
    Text,
    Texts,
    Flag,
    Number(i64, i64),
    OneOf(&'static [&'static str]),
}

/// Arguments as they were given, checked by their fields.
#[derive(Debug, Default)]
pub(super) struct Given(Map<String, Value>);

impl Field {
    /// An argument that may be left out.
    pub(super) const fn may(name: &'static str, takes: Takes, about: &'static str) -> Self {
        Self { name, takes, required: false, about }
    }

    /// An argument that must be there.
    pub(super) const fn must(name: &'static str, takes: Takes, about: &'static str) -> Self {
        Self { name, takes, required: true, about }
    }

    fn schema(&self) -> Value {
        let mut schema = match self.takes {
            Takes::Id => json!({ "type": "string", "format": "uuid" }),
            Takes::Token => json!({ "type": "string", "pattern": "^[0-9]{1,19}$" }),
            Takes::Text => json!({ "type": "string", "minLength": 1 }),
            Takes::Texts => {
                json!({ "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1, "maxItems": 100 })
            }
            Takes::Flag => json!({ "type": "boolean" }),
            Takes::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
            Takes::OneOf(words) => json!({ "type": "string", "enum": words }),
        };
        schema["description"] = self.about.into();
        schema
    }

    /// What is wrong with a value, if anything.
    fn complaint(&self, value: &Value) -> Option<String> {
        let text = value.as_str().filter(|text| !text.is_empty());
        let wants = match self.takes {
            Takes::Id if text.is_some_and(|text| Uuid::try_parse(text).is_ok()) => return None,
            Takes::Id => "the id of a row, like 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10".to_owned(),
            Takes::Token if text.is_some_and(|text| text.parse::<i64>().is_ok_and(|token| token >= 0)) => {
                return None;
            }
            Takes::Token => "the string that claim_job gave as lease_token".to_owned(),
            Takes::Text if text.is_some() => return None,
            Takes::Text => "a string that is not empty".to_owned(),
            Takes::Texts if texts(value).is_some_and(|texts| (1..=100).contains(&texts.len())) => {
                return None;
            }
            Takes::Texts => "a list of 1 to 100 strings".to_owned(),
            Takes::Flag if value.is_boolean() => return None,
            Takes::Flag => "true or false".to_owned(),
            Takes::Number(least, most) => match whole(value) {
                Some(number) if (least..=most).contains(&number) => return None,
                _ => format!("a whole number from {least} to {most}"),
            },
            Takes::OneOf(words) => match text {
                Some(text) if words.contains(&text) => return None,
                text => {
                    let guess = text.and_then(|text| spelling::guess(text, words.iter().copied()));
                    let guess = guess.map(|guess| format!(", perhaps {guess}")).unwrap_or_default();
                    format!("one of {}{guess}", words.join(", "))
                }
            },
        };
        let mut shown: String = value.to_string().chars().take(80).collect();
        if shown.len() < value.to_string().len() {
            shown.push('…');
        }
        Some(format!("`{}` is {shown}; it must be {wants}", self.name))
    }
}

/// A whole number, also one that was written as 5.0: JSON Schema calls that an integer, and some programs write it so.
fn whole(value: &Value) -> Option<i64> {
    let float = || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
    value.as_i64().or_else(|| format!("{:.0}", float()?).parse().ok())
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    value.as_array()?.iter().map(text).collect()
}

/// The JSON Schema of all arguments of a tool.
pub(super) fn schema(fields: &[Field]) -> Map<String, Value> {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.to_owned(), field.schema())).collect();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), properties.into());
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    schema.insert("additionalProperties".into(), false.into());
    schema
}

impl Given {
    /// Checks arguments; null is the same as left out.
    ///
    /// # Errors
    /// All that is wrong, each with the name of its argument.
    pub(super) fn check(fields: &[Field], arguments: Option<Map<String, Value>>) -> Result<Self, String> {
        let mut given = arguments.unwrap_or_default();
        given.retain(|_, value| !value.is_null());
        let mut wrong: Vec<String> = Vec::new();
        for name in given.keys().filter(|name| fields.iter().all(|field| field.name != name.as_str())) {
            let known = fields.iter().map(|field| field.name);
            let known: Vec<&str> = known.collect();
            let guess = spelling::guess(name, known.iter().copied());
            let hint = match guess {
                Some(guess) => format!("did you mean `{guess}`?"),
                None if known.is_empty() => "it takes no arguments".to_owned(),
                None => format!("it takes {}", known.join(", ")),
            };
            wrong.push(format!("`{name}` is no argument of this tool; {hint}"));
        }
        for field in fields {
            match given.get(field.name) {
                Some(value) => wrong.extend(field.complaint(value)),
                None if field.required => wrong.push(format!("`{}` is missing: {}", field.name, field.about)),
                None => {}
            }
        }
        if wrong.is_empty() { Ok(Self(given)) } else { Err(wrong.join("\n")) }
    }

    /// An id that the fields require.
    pub(super) fn id(&self, name: &str) -> Uuid {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// A token that the fields require.
    pub(super) fn token(&self, name: &str) -> i64 {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// A text, when it was given.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A list of texts, when it was given.
    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        texts(self.0.get(name)?)
    }

    /// A number, when it was given.
    pub(super) fn number<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        T::try_from(whole(self.0.get(name)?)?).ok()
    }

    /// Whether it was given as true.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Value::Bool(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [Field; 4] = [
        Field::must("job_id", Takes::Id, "the job"),
        Field::may("limit", Takes::Number(1, 10), "how many"),
        Field::may("status", Takes::OneOf(&["queued", "failed"]), "which"),
        Field::may("job_kinds", Takes::Texts, "kinds"),
    ];

    fn wrong(arguments: &Value) -> String {
        Given::check(&FIELDS, arguments.as_object().cloned()).unwrap_err()
    }

    #[test]
    fn each_wrong_argument_is_named_with_what_it_must_be() {
        let all = wrong(&json!({"job_id": "7", "limit": 11, "status": "quued", "job_kinds": [], "lmit": 1}));
        let lines: Vec<&str> = all.lines().collect();
        assert_eq!(lines.len(), 5, "{all}");
        assert_eq!(lines[0], "`lmit` is no argument of this tool; did you mean `limit`?");
        assert_eq!(
            lines[1],
            "`job_id` is \"7\"; it must be the id of a row, like 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10"
        );
        assert_eq!(lines[2], "`limit` is 11; it must be a whole number from 1 to 10");
        assert_eq!(lines[3], "`status` is \"quued\"; it must be one of queued, failed, perhaps queued");
        assert_eq!(lines[4], "`job_kinds` is []; it must be a list of 1 to 100 strings");
        assert_eq!(wrong(&json!({})), "`job_id` is missing: the job");
        assert!(wrong(&json!({"job_id": "x".repeat(500)})).len() < 250);
    }

    #[test]
    fn a_whole_number_may_be_written_as_a_float_and_no_other() {
        let given = |limit: Value| json!({"job_id": Uuid::nil(), "limit": limit}).as_object().cloned();
        for (limit, number) in [(json!(5.0), 5), (json!(1e1), 10), (json!(7), 7)] {
            assert_eq!(Given::check(&FIELDS, given(limit)).unwrap().number::<i64>("limit"), Some(number));
        }
        for limit in [json!(5.5), json!(0.0), json!(1e300), json!(-1), json!("5"), json!(true)] {
            assert!(Given::check(&FIELDS, given(limit.clone())).is_err(), "{limit}");
        }
    }

    #[test]
    fn null_is_left_out_and_a_token_longer_than_a_float_stays_whole() {
        let fields = [Field::must("t", Takes::Token, "token"), Field::may("n", Takes::Number(1, 2), "n")];
        let given = json!({"t": "9007199254740993", "n": null});
        let given = Given::check(&fields, given.as_object().cloned()).unwrap();
        assert_eq!((given.token("t"), given.number::<i64>("n")), (9_007_199_254_740_993, None));
        let rounded = json!({"t": 9_007_199_254_740_993_i64});
        let error = Given::check(&fields, rounded.as_object().cloned()).unwrap_err();
        assert!(error.contains("`t`") && error.contains("lease_token"), "{error}");
    }
}
