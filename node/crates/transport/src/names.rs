//! Names that go into certificates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls::pki_types::DnsName;
use weir_core::limits::NAME_BYTES_MAX;

use crate::authority::AuthorityError;
use crate::identity::{CertificateFacts, NODE_SERVER_NAME};

/// What a node's certificate is valid for.
///
/// Besides what is added here: `weir`, `localhost`, 127.0.0.1 and ::1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNames {
    pub(crate) node: String,
    pub(crate) names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl NodeNames {
    /// The names of the node `node`, which is its principal too (usually the host name).
    ///
    /// It is added to the DNS names where it is a valid one.
    ///
    /// # Errors
    /// [`AuthorityError::InvalidName`] if it cannot be a principal.
    pub fn new(node: &str) -> Result<Self, AuthorityError> {
        check_issued_name(node)?;
        let mut names = vec![NODE_SERVER_NAME.to_owned(), "localhost".to_owned()];
        if DnsName::try_from(node).is_ok() {
            push_new(&mut names, node.to_owned());
        }
        let addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        Ok(Self { node: node.to_owned(), names, addresses })
    }

    /// Adds a DNS name or an IP address, whichever `name` is.
    ///
    /// # Errors
    /// [`AuthorityError::InvalidName`] if it is neither.
    pub fn with(mut self, name: &str) -> Result<Self, AuthorityError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            push_new(&mut self.addresses, address);
            return Ok(self);
        }
        if DnsName::try_from(name).is_err() {
            let reason = "it is neither a DNS name nor an IP address";
            return Err(AuthorityError::InvalidName { name: name.to_owned(), reason });
        }
        push_new(&mut self.names, name.to_ascii_lowercase());
        Ok(self)
    }

    /// Whether a certificate is for this node and valid for all of these.
    pub(crate) fn are_covered_by(&self, facts: &CertificateFacts) -> bool {
        facts.principal == self.node
            && self.names.iter().all(|name| facts.names.contains(name))
            && self.addresses.iter().all(|address| facts.addresses.contains(address))
    }
}

/// Principals in certificates that we issue: a subset that needs no quoting anywhere.
pub(crate) fn check_issued_name(name: &str) -> Result<(), AuthorityError> {
    let invalid = |reason| AuthorityError::InvalidName { name: name.to_owned(), reason };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(invalid("it must have 1 to 249 characters"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@+".contains(&b)) {
        return Err(invalid("use letters, digits and . _ - @ + only"));
    }
    Ok(())
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}
