//! What a new node and a cluster say to each other before they trust each other.

use crate::cluster::members::Member;
use crate::ids::NodeId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What every token begins with.
const PREFIX: &str = "weir-join-";
/// Bytes in a token: id, secret, fingerprint.
const TOKEN_BYTES: usize = 8 + 16 + 32;

/// A token: it lets one node into a cluster, and tells that node which cluster it is.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// By which the cluster finds it.
    pub id: u64,
    /// Known to whoever holds the token. The cluster has its hash.
    pub secret: [u8; 16],
    /// SHA-256 of the certificate of the cluster's authority.
    pub authority: [u8; 32],
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        let id = self.id.to_be_bytes();
        let mut all = id.iter().chain(&self.secret).chain(&self.authority);
        all.try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is no token, or not all of it: that is weir-join- and {digits} digits and letters a to f",
    digits = 2 * TOKEN_BYTES
)]
pub struct NoToken;

impl FromStr for JoinToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<JoinToken, NoToken> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(NoToken)?.as_bytes();
        let mut bytes = [0; TOKEN_BYTES];
        if digits.len() != 2 * TOKEN_BYTES {
            return Err(NoToken);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NoToken)?;
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NoToken);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoToken)?;
        }
        let (id, rest) = bytes.split_at(8);
        let (secret, authority) = rest.split_at(16);
        let part = |_| NoToken;
        Ok(JoinToken {
            id: u64::from_be_bytes(id.try_into().map_err(part)?),
            secret: secret.try_into().map_err(part)?,
            authority: authority.try_into().map_err(part)?,
        })
    }
}

/// What a new node asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAsk {
    /// The token's id.
    pub token: u64,
    /// The token's secret.
    pub secret: Bytes,
    /// The node's name.
    pub name: String,
    /// Where the others reach it: host and port; without a host, at the address that it connects
    /// from.
    pub address: String,
    /// A request to sign a certificate for its key: PKCS #10, DER.
    pub request: Bytes,
}

impl fmt::Debug for JoinAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("JoinAsk");
        shown.field("token", &self.token).field("name", &self.name);
        shown.field("address", &self.address).finish_non_exhaustive()
    }
}

/// What it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its number.
    pub node: NodeId,
    /// Its certificate, PEM.
    pub certificate: String,
    /// The authority's certificate, PEM.
    pub authority: String,
    /// All members, itself included.
    pub members: BTreeMap<NodeId, Member>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a token is read as it is printed; no other text is one, and nothing shows its secret.
    #[test]
    fn tokens() {
        let token = JoinToken { id: 7, secret: [0xa5; 16], authority: [9; 32] };
        let text = token.to_string();
        assert_eq!(text.parse::<JoinToken>(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse::<JoinToken>(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("a5"));
        let mut signs = text.clone();
        signs.replace_range(10..12, "+7");
        for wrong in ["", "weir-join-", &text[1..], &text[..text.len() - 1], &signs] {
            assert_eq!(wrong.parse::<JoinToken>(), Err(NoToken), "{wrong}");
        }
        assert_eq!(text.replace('a', "é").parse::<JoinToken>(), Err(NoToken));
    }
}
