//! The dashboard's token: where it comes from, and that it is never printed.

use std::path::Path;

use reveille::config::Settings;
use reveille::error::Kind;

use super::{environment, problem, problems};

#[test]
fn the_dashboards_token_comes_from_settings_or_a_file_is_long_enough_and_is_never_printed() {
    let token = "hush-0123456789-hush";
    let set = |name: &'static str, value: &str| environment(&[(name, value)]);
    let settings = set("REVEILLE__HTTP__TOKEN", token).load().unwrap();
    assert_eq!(settings.http.token.0, token);
    assert!(!format!("{settings:?}").contains("hush"));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("token");
    std::fs::write(&path, format!("{token}\n")).unwrap();
    let file = path.display().to_string();
    let http = |file: &str| set("REVEILLE__HTTP__TOKEN_FILE", file).load().unwrap().http;
    assert_eq!(http(&file).read_token().unwrap().0, token);
    assert_eq!(settings.http.read_token().unwrap().0, token);
    assert_eq!(Settings::default().http.read_token().unwrap().0, "");
    let both = environment(&[("REVEILLE__HTTP__TOKEN", token), ("REVEILLE__HTTP__TOKEN_FILE", &file)]);
    assert!(problem(&problems(&both), "http.token").rule.contains("both given"));
    for wrong in ["hush-is-short", "hush hush hush hush"] {
        let all = problems(&set("REVEILLE__HTTP__TOKEN", wrong));
        let rule = &problem(&all, "http.token").rule;
        assert!(rule.contains("16 characters") || rule.contains("one word"), "{rule}");
        assert!(!format!("{all:?}").contains("hush"), "{all:?}");
    }
    // whoever serves no dashboard does not look
    let missing = http("/no/such/file").read_token().unwrap_err();
    assert_eq!(missing.kind(), Kind::Usage);
    assert!(
        missing.to_string().contains("token_file") && missing.to_string().contains("cannot be read"),
        "{missing}"
    );
    for (content, words) in [("hush", "16 characters"), ("", "is empty")] {
        std::fs::write(&path, content).unwrap();
        let error = http(&file).read_token().unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("hush"), "{error}");
    }
}
