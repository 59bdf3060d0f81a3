//! `reveille workflows validate`, `put` and `emit`: templates, and workflows made from them.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::super::context::{Context, Outcome, actor};
use super::super::output::table;
use super::super::payload;
use crate::error::{Error, Result};
use crate::model::workflow::template;
use crate::store::workflows;

#[derive(Debug, clap::Args)]
pub(super) struct File {
    /// The template, TOML, or JSON when the name ends in .json
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct Put {
    #[command(flatten)]
    file: File,
    /// Who writes it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Emit {
    /// Its key, for the newest version, or KEY@VERSION
    template: String,
    /// A parameter; numbers, true, false, null and JSON in brackets are taken as such, all else as text. May be repeated
    #[arg(long = "param", value_name = "NAME=VALUE")]
    param: Vec<String>,
    /// All parameters, as JSON or @FILE
    #[arg(long, value_name = "JSON", conflicts_with = "param")]
    params: Option<String>,
    /// What the workflow is about; a second one of the same template with the same words is the first
    #[arg(long, value_name = "TEXT")]
    correlation_id: Option<String>,
    /// Who wants it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only show the steps that it would have
    #[arg(long)]
    dry_run: bool,
}

impl File {
    fn read(&self) -> Result<Value> {
        let name = self.file.display();
        let text = std::fs::read_to_string(&self.file)
            .map_err(|error| Error::usage(format!("{name} cannot be read: {error}")))?;
        let is_json = self.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        template(&text, is_json).map_err(|error| Error::usage(format!("{name}: {error}")))
    }
}

pub(super) async fn validate(args: &File, context: &Context) -> Result<Outcome> {
    let template = args.read()?;
    let answer = workflows::put(&context.client().await?, &template, Some("validate"), true).await?;
    Outcome::of(answer, |result| context.out.answer(result, || format!("sound; {}", named(result))))
}

pub(super) async fn put(args: Put, context: &Context) -> Result<Outcome> {
    let template = args.file.read()?;
    let answer =
        workflows::put(&context.client().await?, &template, actor(args.actor).as_deref(), false).await?;
    Outcome::of(answer, |result| {
        let how = if result["changed"] == true { "is written" } else { "was there already" };
        context.out.answer(result, || format!("{} {how}", named(result)))
    })
}

fn named(result: &Value) -> String {
    format!("{}@{}", result["template_key"].as_str().unwrap_or_default(), result["version"])
}

pub(super) async fn emit(args: Emit, context: &Context) -> Result<Outcome> {
    let params = match payload::payload("--params", args.params.as_deref())? {
        Some(params) => params,
        None => Value::Object(args.param.iter().map(|text| param(text)).collect::<Result<Map<_, _>>>()?),
    };
    let client = context.client().await?;
    let (correlation_id, actor) = (args.correlation_id.as_deref(), actor(args.actor));
    let answer =
        workflows::emit(&client, &args.template, &params, correlation_id, actor.as_deref(), args.dry_run)
            .await?;
    Outcome::of(answer, |result| context.out.answer(result, || told(result)))
}

/// `NAME=VALUE`.
fn param(text: &str) -> Result<(String, Value)> {
    let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err(
            Error::usage(format!("--param {text}: there is no value")).hint("write it as --param NAME=VALUE")
        );
    };
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

fn told(result: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let Some(steps) = result["steps"].as_array() else {
        let how = if result["created"] == true { "made" } else { "was there already" };
        let others = if result["same_params"] == false {
            "\nits parameters are others than these, and stay as they are; another --correlation-id makes another workflow"
        } else {
            ""
        };
        return format!(
            "workflow {} {how}, {} with {} steps{others}",
            text(&result["workflow_id"]),
            text(&result["status"]),
            result["jobs"]
        );
    };
    let row = |step: &Value| {
        let needs: Vec<String> = step["needs"].as_array().into_iter().flatten().map(text).collect();
        let kind = if step["type"] == "job" { text(&step["job_kind"]) } else { text(&step["type"]) };
        let who = if step["type"] == "job" { text(&step["executor"]) } else { "-".to_owned() };
        [text(&step["step"]), kind, who, text(&step["source_ref"]), needs.join(", ")]
    };
    let steps = table(&["step", "kind", "executor", "source_ref", "after"], steps.iter().map(row));
    format!("dry run: {} would have {} steps\n\n{steps}", text(&result["template"]), result["jobs"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_parameter_is_what_it_looks_like() {
        for (text, value) in [
            ("a=1", json!(1)),
            ("a=[1,2]", json!([1, 2])),
            ("a=x=y", json!("x=y")),
            ("a=", json!("")),
            ("a=true", json!(true)),
        ] {
            assert_eq!(param(text).unwrap(), ("a".to_owned(), value));
        }
        assert!(param("a").is_err() && param("=1").is_err());
    }
}
