//! Which addresses may be dialled.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::target::TargetUrl;

/// Judges every address before it is dialled.
#[derive(Clone, Debug)]
pub struct AddressGuard {
    allowed: Vec<IpNet>,
}

/// The address lies where nothing may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("forbidden address")]
pub struct ForbiddenAddress;

impl AddressGuard {
    /// Public addresses pass, and those private ones that `allowed` covers.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether `address` may be dialled.
    pub fn check(&self, address: IpAddr) -> Result<(), ForbiddenAddress> {
        let ok = self.allowed.iter().any(|net| net.contains(&address));
        if ok { Ok(()) } else { Err(ForbiddenAddress) }
    }

    /// Whether `target` may be stored: its address where it is a literal; names are judged when
    /// they are dialled, but for those that mean this machine.
    pub fn check_target(&self, target: &TargetUrl) -> Result<(), ForbiddenAddress> {
        target.literal().map_or(Ok(()), |address| self.check(address))
    }
}
