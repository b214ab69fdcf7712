//! What an error of a handler asks for.

use std::time::Duration;

use micro_core::Detail;

use crate::{
    DeadLetter, DeadLetters, Error, Group, Message, Random, Result, SubscribeOptions, Topic,
};

/// When a message is to come again. In milliseconds, as decimal digits.
const RETRY: &str = "micro/broker.RetryIn";
/// It is never to come again.
const REJECT: &str = "micro/broker.Reject";

/// What a handler's error asks for. Implemented for [`Error`]; it cannot be implemented by hand.
///
/// ```
/// use std::time::Duration;
/// use micro_broker_core::{Error, NackExt as _};
///
/// let soon = Error::unavailable("the printer is warming up").retry_in(Duration::from_secs(20));
/// let never = Error::invalid_argument("an order without a customer").reject();
/// ```
pub trait NackExt: Sized + sealed::Sealed {
    /// The message comes again after so long, instead of after the group's backoff.
    #[must_use]
    fn retry_in(self, pause: Duration) -> Self;

    /// The message goes to the dead letters at once: it would fail every time.
    #[must_use]
    fn reject(self) -> Self;
}

impl NackExt for Error {
    fn retry_in(self, pause: Duration) -> Self {
        let millis = pause.as_millis().to_string();
        self.with_detail(Detail::new(RETRY, millis.into_bytes()))
    }

    fn reject(self) -> Self {
        self.with_detail(Detail::new(REJECT, Vec::new()))
    }
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It was handled.
    Ack,
    /// It comes again after so long.
    Retry(Duration),
    /// It was handled for the last time, and this goes to the dead letters.
    Dead(Box<Message>),
    /// It was handled for the last time, and nothing is kept of it.
    Drop,
}

/// What becomes of a message whose handler failed: it comes again, unless it was delivered often enough
/// or is rejected.
#[must_use]
pub fn after_failure(
    message: &Message,
    group: Option<&Group>,
    opts: &SubscribeOptions,
    deliveries: u32,
    error: &Error,
    random: &dyn Random,
) -> Verdict {
    let detail = |url: &str| {
        let mut details = error.details().iter();
        details.find(|detail| detail.type_url == url)
    };
    if deliveries < opts.max_deliveries && detail(REJECT).is_none() {
        let asked =
            detail(RETRY).and_then(|detail| str::from_utf8(&detail.value).ok()?.parse().ok());
        return Verdict::Retry(match asked {
            Some(millis) => Duration::from_millis(millis).min(opts.backoff.max),
            None => opts.backoff.pause(deliveries, random),
        });
    }
    match dead_letter_topic(&message.topic, group, opts) {
        Ok(Some(to)) => {
            let dead = DeadLetter::new(message.topic.clone(), group.cloned(), error, deliveries);
            Verdict::Dead(Box::new(message.clone().into_dead_letter(to, dead)))
        }
        // An impossible name is refused when one subscribes.
        Ok(None) | Err(_) => Verdict::Drop,
    }
}

/// Where dead letters go; `None` for nowhere.
pub(crate) fn dead_letter_topic(
    topic: &Topic,
    group: Option<&Group>,
    opts: &SubscribeOptions,
) -> Result<Option<Topic>> {
    match &opts.dead_letters {
        DeadLetters::Usual => topic.dead_letter(group).map(Some),
        DeadLetters::To(topic) => Ok(Some(topic.clone())),
        DeadLetters::Nowhere => Ok(None),
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Error {}
}

#[cfg(test)]
mod tests {
    use micro_core::SeededRandom;

    use super::*;

    #[test]
    fn a_failure_comes_again_until_it_is_dead() {
        let message = Message::new(Topic::new("t").unwrap(), "body")
            .with_metadata("a", "b")
            .unwrap();
        let group = Group::new("g").unwrap();
        let opts = SubscribeOptions::default()
            .with_group(group.clone())
            .with_max_deliveries(3);
        let random = SeededRandom::new(1);
        let after = |deliveries, error: &Error| {
            after_failure(&message, Some(&group), &opts, deliveries, error, &random)
        };
        let error = Error::internal("no");
        assert!(matches!(after(1, &error), Verdict::Retry(pause) if pause <= opts.backoff.first));
        assert!(matches!(after(2, &error), Verdict::Retry(_)));
        let Verdict::Dead(dead) = after(3, &error) else {
            panic!("it is dead");
        };
        assert_eq!(dead.topic.as_str(), "t.g.dead");
        assert_eq!(
            (&dead.body, dead.metadata.get("a")),
            (&message.body, Some("b"))
        );
        let why = dead.dead_letter.unwrap();
        assert_eq!((&*why.reason, why.deliveries), ("INTERNAL: no", 3));
        let asked = Error::internal("no").retry_in(Duration::from_millis(7));
        assert_eq!(after(1, &asked), Verdict::Retry(Duration::from_millis(7)));
        assert!(matches!(after(1, &error.reject()), Verdict::Dead(_)));
    }
}
