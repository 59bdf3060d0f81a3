//! Hides passwords in database addresses before they are shown.

/// The address with its password replaced by `***`; both forms, `postgres://user:password@host/name` and
/// `host=… password=…`, are understood. Whatever cannot be understood is hidden whole.
pub fn redact(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", hide_parameters(&hide_user_part(rest), '&')),
        None if url.is_empty() => String::new(),
        // a quoted password may hold spaces, so nothing after it is shown
        None if url.contains('=') => hide_parameters(url, '\0'),
        None => "***".to_owned(),
    }
}

/// `user:password@…`: the last `@` ends the user part, so that an unescaped `@` or `/` stays hidden.
fn hide_user_part(rest: &str) -> String {
    match rest.rsplit_once('@') {
        Some((user, place)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:***@{place}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    }
}

/// The values of every `…password=`, up to `end`.
fn hide_parameters(text: &str, end: char) -> String {
    let lower = text.to_ascii_lowercase();
    let mut shown = String::new();
    let mut at = 0;
    while let Some(found) = lower[at..].find("password") {
        let from = at + found + "password".len();
        let to = lower[from..].find(end).map_or(text.len(), |length| from + length);
        shown.push_str(&text[at..from]);
        shown.push_str("=***");
        at = to;
    }
    shown.push_str(&text[at..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn passwords_are_hidden_in_every_form_of_an_address() {
        for url in [
            "postgres://me:hush@host/db",
            "postgres://me:hu@sh@host/db",
            "postgres://me:hu/sh?@host/db",
            "postgres://host/db?user=me&password=hush",
            "postgres://host/db?user=m@e&password=hush",
            "postgres://me:hush@host/db?sslpassword=hush&a=b",
            "host=a user=me password=hush dbname=b",
            "host=a PASSWORD = 'hu sh' dbname=b",
            "hush",
        ] {
            let shown = redact(url);
            assert!(!shown.contains("hu") && !shown.contains("sh?"), "{url} is shown as {shown}");
        }
        assert_eq!(redact("postgres://me:hush@host:5433/db"), "postgres://me:***@host:5433/db");
        assert_eq!(redact("postgres://me@host/db"), "postgres://me@host/db");
        assert_eq!(redact("host=a dbname=b"), "host=a dbname=b");
        assert_eq!(redact(""), "");
    }
}
