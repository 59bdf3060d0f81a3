//! Somebody at the desk, without a browser: a cookie, the token of the session, forms.

use std::net::SocketAddr;

use super::stage::TOKEN;
use crate::http::client::{Answer, hang_up, request, send};

pub(super) const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
pub(super) const OURS: (&str, &str) = ("Origin", "http://localhost");

/// Fields as a browser sends them.
pub(super) fn encoded(fields: &[(&str, &str)]) -> String {
    let byte = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    let one =
        |(name, value): &(&str, &str)| format!("{name}={}", value.bytes().map(byte).collect::<String>());
    fields.iter().map(one).collect::<Vec<_>>().join("&")
}

/// A sign-in with any token.
pub(super) async fn sign_in(address: SocketAddr, token: &str, then: &str) -> Answer {
    let body = encoded(&[("name", "ann"), ("token", token), ("then", then)]);
    send(address, "POST", "/sign-in", &[FORM, OURS], &body).await
}

pub(super) struct Clerk {
    address: SocketAddr,
    pub(super) cookie: String,
    pub(super) csrf: String,
}

impl Clerk {
    pub(super) async fn at(address: SocketAddr) -> Self {
        let answer = sign_in(address, TOKEN, "/").await;
        assert_eq!(answer.status, 303, "{}", answer.body);
        let cookie = answer.headers["set-cookie"].split(';').next().unwrap().to_owned();
        let mut clerk = Self { address, cookie, csrf: String::new() };
        let page = clerk.get("/act/pause").await.body;
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        rest.split('"').next().unwrap().clone_into(&mut clerk.csrf);
        clerk
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        request(self.address, "GET", path, &[("Cookie", &self.cookie)]).await
    }

    /// A form from a page of ours.
    pub(super) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let fields = [fields, &[("csrf", self.csrf.as_str())]].concat();
        self.post_as(path, &[OURS, ("Sec-Fetch-Site", "same-origin")], &fields).await
    }

    /// A form from wherever `headers` say.
    pub(super) async fn post_as(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        fields: &[(&str, &str)],
    ) -> Answer {
        let headers = [headers, &[FORM, ("Cookie", self.cookie.as_str())]].concat();
        send(self.address, "POST", path, &headers, &encoded(fields)).await
    }

    /// Confirms, and goes away after `when` without an answer; ends when that was noticed.
    pub(super) async fn confirm_and_go(&self, place: &str, when: impl AsyncFnOnce()) {
        let headers = [FORM, OURS, ("Cookie", self.cookie.as_str())];
        hang_up(self.address, place, &headers, &encoded(&[("csrf", &self.csrf)]), when).await;
    }

    /// Asks for an act; gives the address of its dry run, and that page.
    pub(super) async fn ask(&self, what: &str, fields: &[(&str, &str)]) -> (String, String) {
        let answer = self.post(&format!("/act/{what}"), fields).await;
        assert_eq!(answer.status, 303, "{}", answer.body);
        let place = answer.headers["location"].clone();
        assert!(place.starts_with("/acts/"), "{place}");
        let page = self.get(&place).await;
        assert_eq!(page.status, 200, "{}", page.body);
        (place, page.body)
    }

    /// Confirms it; gives the page of what happened.
    pub(super) async fn confirm(&self, place: &str) -> String {
        let answer = self.post(place, &[]).await;
        assert_eq!((answer.status, answer.headers["location"].as_str()), (303, place), "{}", answer.body);
        self.get(place).await.body
    }
}
