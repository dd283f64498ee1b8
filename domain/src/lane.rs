//! The lane of one subscription.
