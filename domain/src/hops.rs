//! How often an event has come through a Posthorn, so that a loop ends.
//!
//! A delivery says in `Posthorn-Hops` how often its event has come through, this time included. Where its
//! target is an ingest, that one stores the number with the event and says one more. So an event that
//! comes back to where it was counts its rounds, whatever stands between, as long as the header is passed on.

/// Hops after which an event is taken for one that goes round: a chain of real systems is shorter.
pub const HOPS_MAX: u8 = 8;

/// How often an event had come through a Posthorn when it came in; at most [`HOPS_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hops(u8);

/// Why an event is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HopsError {
    /// Not a number.
    #[error("expected a whole number, as the delivery that is passed on says it")]
    Malformed,
    /// The event came through more than [`HOPS_MAX`] times.
    #[error("the event has come through Posthorn more than {HOPS_MAX} times")]
    Loop,
}

impl Hops {
    /// Reads `Posthorn-Hops`.
    pub fn parse(value: &[u8]) -> Result<Self, HopsError> {
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(HopsError::Malformed);
        }
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u8>().ok());
        // More digits than fit are many hops, too.
        number.filter(|hops| *hops <= HOPS_MAX).map(Self).ok_or(HopsError::Loop)
    }

    /// As it was stored.
    #[must_use]
    pub fn of_stored(number: i16) -> Self {
        Self(u8::try_from(number).unwrap_or(HOPS_MAX).min(HOPS_MAX))
    }

    /// As it is stored.
    #[must_use]
    pub fn stored(self) -> i16 {
        self.0.into()
    }

    /// What the event's deliveries say: one more.
    #[must_use]
    pub fn next(self) -> u16 {
        u16::from(self.0) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_counted_to_an_end() {
        for (value, hops) in [
            ("0", Ok(Hops(0))),
            ("1", Ok(Hops(1))),
            ("008", Ok(Hops(8))),
            ("9", Err(HopsError::Loop)),
            ("256", Err(HopsError::Loop)),
            ("99999999999999999999999999", Err(HopsError::Loop)),
            ("", Err(HopsError::Malformed)),
            ("-1", Err(HopsError::Malformed)),
            ("+1", Err(HopsError::Malformed)),
            ("1.0", Err(HopsError::Malformed)),
            ("1 ", Err(HopsError::Malformed)),
            ("one", Err(HopsError::Malformed)),
            ("١", Err(HopsError::Malformed)),
        ] {
            assert_eq!(Hops::parse(value.as_bytes()), hops, "{value:?}");
        }
    }

    #[test]
    fn an_event_that_goes_round_is_refused_in_the_end() {
        let mut hops = Hops::default();
        let mut rounds = 0;
        let end = loop {
            match Hops::parse(hops.next().to_string().as_bytes()) {
                Ok(more) => hops = Hops::of_stored(more.stored()),
                Err(end) => break end,
            }
            rounds += 1;
        };
        assert_eq!((end, rounds), (HopsError::Loop, HOPS_MAX));
    }
}
