//! Wrong tokens: whoever gives one must wait before the next is looked at, ever longer.
//!
//! The wait is a moment that is kept for each address, not a request that is held: hanging up does not shorten it, and
//! nobody else waits behind a guesser. A wrong token that is given again tells nothing new and makes nobody wait, so a
//! forgotten program with an old token locks nobody out.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::sessions::Digest;

/// Pause after the first wrong token in a row; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// An address from which no token was guessed for this long begins anew.
const FORGET: Duration = Duration::from_mins(15);
/// Most addresses; the one whose pause ended first makes room.
const MOST: usize = 1024;
/// Wrong tokens that are known again, for each address.
const MOST_KNOWN: usize = 8;

/// All who guess.
#[derive(Debug, Default)]
pub(super) struct Guesses(Mutex<HashMap<IpAddr, Guesser>>);

#[derive(Debug)]
struct Guesser {
    /// Wrong ones in a row.
    wrong: u32,
    not_before: Instant,
    known: VecDeque<Digest>,
}

/// Why somebody may not.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    WrongToken,
    /// It was not looked at; it will be after so long.
    TooMany(Duration),
}

impl Guesses {
    /// Compares a token, given by its digest, with the one that is `wanted`.
    pub(super) fn check(
        &self,
        from: IpAddr,
        given: &Digest,
        wanted: &Digest,
        now: Instant,
    ) -> Result<(), Unknown> {
        let from = neighbourhood(from);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, guesser| now < guesser.not_before + FORGET);
        if let Some(guesser) = all.get(&from) {
            if guesser.known.contains(given) {
                return Err(Unknown::WrongToken);
            }
            if now < guesser.not_before {
                return Err(Unknown::TooMany(guesser.not_before - now));
            }
        }
        // every byte is looked at, wherever the first difference is
        let difference = given.iter().zip(wanted).fold(0, |all, (given, wanted)| all | (given ^ wanted));
        if std::hint::black_box(difference) == 0 {
            if let Some(guesser) = all.get_mut(&from) {
                guesser.wrong = 0;
            }
            return Ok(());
        }
        if all.len() >= MOST
            && !all.contains_key(&from)
            && let Some(first) = all.iter().min_by_key(|(_, one)| one.not_before).map(|(from, _)| *from)
        {
            all.remove(&first);
        }
        let guesser = all.entry(from).or_insert_with(|| Guesser {
            wrong: 0,
            not_before: now,
            known: VecDeque::with_capacity(MOST_KNOWN),
        });
        let pause = (FIRST_PAUSE * 2_u32.pow(guesser.wrong.min(8))).min(LONGEST_PAUSE);
        guesser.wrong = guesser.wrong.saturating_add(1);
        guesser.not_before = now + pause;
        if guesser.known.len() >= MOST_KNOWN {
            guesser.known.pop_front();
        }
        guesser.known.push_back(*given);
        tracing::warn!(
            http.wrong_tokens = guesser.wrong,
            "[http] {from} gave a wrong token to the dashboard"
        );
        Err(Unknown::WrongToken)
    }
}

/// The address, or the network that one subscriber has of the sixth version.
fn neighbourhood(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(from) => IpAddr::V6(Ipv6Addr::from_bits(from.to_bits() & (u128::MAX << 64))),
        from @ IpAddr::V4(_) => from,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sessions::digest;
    use super::*;

    const RIGHT: &str = "the right one";

    fn check(guesses: &Guesses, from: &str, token: &str, now: Instant) -> Result<(), Unknown> {
        guesses.check(from.parse().unwrap(), &digest(token), &digest(RIGHT), now)
    }

    #[test]
    fn each_wrong_token_makes_its_address_wait_longer_and_no_other() {
        let (guesses, mut now) = (Guesses::default(), Instant::now());
        for (n, pause) in [250, 500, 1000, 2000, 2000].into_iter().enumerate() {
            let pause = Duration::from_millis(pause);
            assert_eq!(check(&guesses, "10.0.0.7", &n.to_string(), now), Err(Unknown::WrongToken));
            let just_before = now + pause - Duration::from_millis(1);
            let early = check(&guesses, "10.0.0.7", RIGHT, just_before);
            assert_eq!(early, Err(Unknown::TooMany(Duration::from_millis(1))), "not even the right one");
            assert_eq!(check(&guesses, "10.0.0.8", RIGHT, just_before), Ok(()));
            now += pause;
        }
        assert_eq!(check(&guesses, "10.0.0.7", RIGHT, now), Ok(()));
        assert_eq!(check(&guesses, "10.0.0.7", "x", now), Err(Unknown::WrongToken));
        assert_eq!(check(&guesses, "10.0.0.7", RIGHT, now + FIRST_PAUSE), Ok(()), "it began anew");
    }

    #[test]
    fn a_program_with_an_old_token_keeps_nobody_out() {
        let (guesses, begin) = (Guesses::default(), Instant::now());
        assert_eq!(check(&guesses, "127.0.0.1", "last week's", begin), Err(Unknown::WrongToken));
        for n in 1..100 {
            let now = begin + FIRST_PAUSE * n;
            assert_eq!(check(&guesses, "127.0.0.1", "last week's", now), Err(Unknown::WrongToken));
            assert_eq!(check(&guesses, "127.0.0.1", RIGHT, now), Ok(()), "{n}");
        }
    }

    #[test]
    fn addresses_are_bounded_forgotten_and_one_network_is_one_guesser() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for n in 0..u32::try_from(MOST).unwrap() + 10 {
            let from = IpAddr::from(std::net::Ipv4Addr::from_bits(n));
            let moment = now + Duration::from_micros(n.into());
            guesses.check(from, &digest("x"), &digest(RIGHT), moment).unwrap_err();
        }
        assert_eq!(guesses.0.lock().unwrap().len(), MOST);
        check(&guesses, "2001:db8::1", "x", now + FORGET * 2).unwrap_err();
        assert_eq!(guesses.0.lock().unwrap().len(), 1);
        let early = check(&guesses, "2001:db8::2", RIGHT, now + FORGET * 2);
        assert!(matches!(early, Err(Unknown::TooMany(_))), "{early:?}");
        assert_eq!(check(&guesses, "2001:db8:0:1::1", RIGHT, now + FORGET * 2), Ok(()));
        assert_eq!(neighbourhood("::ffff:10.0.0.7".parse().unwrap()), "10.0.0.7".parse::<IpAddr>().unwrap());
    }
}
