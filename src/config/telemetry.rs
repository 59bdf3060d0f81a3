//! `[telemetry]`, and the standard variables of OTLP that set its keys.

use std::time::Duration;

use super::problem::Origin;
use super::read::{Checked, Fault, Reader, choice, duration, text};
use super::settings::{Protocol, Telemetry};
use super::typed::Value;

/// Whether this binary can export spans.
const IS_BUILT_IN: bool = cfg!(feature = "otlp");
/// The standard variables, weakest first, and the key that each sets. The endpoint comes first: without it none counts.
const STANDARD: [(&str, &str); 9] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.endpoint"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "telemetry.endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "telemetry.headers"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "telemetry.headers"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "telemetry.protocol"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "telemetry.protocol"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "telemetry.timeout"),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "telemetry.timeout"),
    ("OTEL_SERVICE_NAME", "telemetry.service_name"),
];

/// The keys that the standard variables set: key, variable, value. None without the feature, which must not fail where a
/// platform sets these for everybody, and none when the variables name no endpoint, or switch the export off.
pub(super) fn standard(environment: &[(String, String)]) -> Vec<(&'static str, &'static str, String)> {
    let said = |name: &str| {
        let found = environment.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    };
    let is_off = said("OTEL_SDK_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true"))
        || said("OTEL_TRACES_EXPORTER") == Some("none");
    let names_endpoint = STANDARD[..2].iter().any(|(name, _)| said(name).is_some());
    if !IS_BUILT_IN || is_off || !names_endpoint {
        return Vec::new();
    }
    let set = |(name, key): (&'static str, &'static str)| {
        let value = said(name)?;
        // the standard counts in milliseconds, without saying so
        let plain = key == "telemetry.timeout" && value.bytes().all(|byte| byte.is_ascii_digit());
        Some((key, name, if plain { format!("{value}ms") } else { value.to_owned() }))
    };
    STANDARD.into_iter().filter_map(set).collect()
}

pub(super) fn check(read: &mut Reader, it: &mut Telemetry) {
    read.read("telemetry.endpoint", &mut it.endpoint, endpoint);
    read.read("telemetry.headers", &mut it.headers, text);
    read.read("telemetry.protocol", &mut it.protocol, choice(&[("http/protobuf", Protocol::HttpProtobuf)]));
    read.read("telemetry.service_name", &mut it.service_name, service_name);
    let (shortest, longest) = (Duration::from_millis(100), Duration::from_mins(1));
    read.read("telemetry.timeout", &mut it.timeout, duration(shortest..=longest));
    it.is_of_platform = read.origin("telemetry.endpoint").is_some_and(is_standard);
    set_unfit_aside(read, it);
}

fn is_standard(origin: &Origin) -> bool {
    matches!(origin, Origin::Environment(name) if STANDARD.iter().any(|(standard, _)| standard == name))
}

/// A platform sets the standard variables for everybody: what of them does not fit stops no command. It costs the export,
/// unless the endpoint is of our own keys.
fn set_unfit_aside(read: &mut Reader, it: &mut Telemetry) {
    let unfit = read.set_aside(is_standard);
    if unfit.is_empty() {
        return;
    }
    let effect =
        if it.endpoint.is_empty() || it.is_of_platform { "no spans are exported" } else { "left out" };
    let words: Vec<String> = unfit.iter().map(ToString::to_string).collect();
    it.unfit = Some(format!("{effect}: the standard variables do not fit: {}", words.join("; ")));
    if it.is_of_platform {
        (it.endpoint, it.is_of_platform) = (String::new(), false);
    }
}

/// The form alone is checked, and the value never shown: somebody may put a password into it.
fn endpoint(value: &Value) -> Checked<String> {
    let text = text(value)?;
    if text.is_empty() {
        return Ok(text);
    }
    if !IS_BUILT_IN {
        let rule = "this binary was built without otlp: build it with `cargo build --release --features otlp`, or leave \
                    the key empty";
        return Err(Fault::rule(rule));
    }
    if ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(text);
    }
    Err(Fault::rule("must be an address such as http://localhost:4318"))
}

fn service_name(value: &Value) -> Checked<String> {
    let text = text(value)?;
    if text.trim().is_empty() { Err(Fault::rule("must be a name")) } else { Ok(text) }
}
