//! Certificates as this crate uses them: whom to trust, who we are, who the peer is.
//!
//! **Trust is the site's authority, not a name.** A node certificate carries the fixed DNS name
//! [`NODE_SERVER_NAME`] besides the names and addresses of its machine, and clients check for
//! that name unless told otherwise. So a node can change its address or be reached through a
//! tunnel without a new certificate; what a client relies on is that the site's own certificate
//! authority issued it *for a node*. Client certificates never carry that name, nor the usage
//! `serverAuth`, so a client cannot pose as a node.
//!
//! A certificate made by [`crate::Authority`] says who it is for in a URI among its alternative
//! names, `urn:weir:client:NAME` or `urn:weir:node:NAME`. A certificate from an operator's own
//! authority needs no such URI: its common name is then the principal, and it counts as a client.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use weir_core::limits::NAME_BYTES_MAX;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::problem::{CertificateProblem, Instant};
use crate::tls::crypto_provider;

/// The DNS name that every node certificate carries and that clients check for by default.
pub const NODE_SERVER_NAME: &str = "weir";

/// Largest certificate or key file that is read, in bytes.
const PEM_BYTES_MAX: u64 = 256 * 1024;
/// Most certificates in one file.
const CERTIFICATES_MAX: usize = 64;

pub(crate) const CLIENT_URI_PREFIX: &str = "urn:weir:client:";
pub(crate) const NODE_URI_PREFIX: &str = "urn:weir:node:";

/// Why certificates or keys could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text holds no certificate, or one that cannot be parsed.
    #[error("no usable certificate: {0}")]
    Certificate(String),
    /// The text holds no private key, or one that cannot be used.
    #[error("no usable private key: {0}")]
    Key(String),
    /// The key does not belong to the certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
}

/// The certificate authorities that a side trusts.
#[derive(Clone)]
pub struct Trust {
    pub(crate) roots: Arc<RootCertStore>,
}

impl Trust {
    /// Trusts the authorities in a PEM text (`ca.pem`).
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] if there is none, or one cannot be parsed.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate).map_err(|e| IdentityError::Certificate(e.to_string()))?;
        }
        Ok(Self { roots: Arc::new(roots) })
    }

    /// Trusts the authorities in a PEM file.
    ///
    /// # Errors
    /// As [`Trust::from_pem`], or the file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&read(path)?)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} authorities)", self.roots.len())
    }
}

/// A certificate chain and its private key: what one side shows the other.
#[derive(Clone)]
pub struct Identity {
    pub(crate) resolver: Arc<SingleCertAndKey>,
    chain: Arc<[CertificateDer<'static>]>,
    key: Arc<dyn rustls::sign::SigningKey>,
    /// Secret bytes derived from the private key; see [`Identity::derive_secret`].
    secret: Arc<ring::hmac::Key>,
}

impl Identity {
    /// Takes a chain (own certificate first) and its key, both PEM.
    ///
    /// # Errors
    /// If either cannot be parsed, or they do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| IdentityError::Key(error.to_string()))?;
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.secret_der());
        let certified =
            CertifiedKey::from_der(chain.clone(), key, &crypto_provider()).map_err(|error| {
                match error {
                    rustls::Error::InconsistentKeys(_) => IdentityError::Mismatch,
                    rustls::Error::InvalidCertificate(_) => {
                        IdentityError::Certificate(error.to_string())
                    }
                    other => IdentityError::Key(other.to_string()),
                }
            })?;
        let key = certified.key.clone();
        Ok(Self {
            resolver: Arc::new(SingleCertAndKey::from(certified)),
            chain: chain.into(),
            key,
            secret: Arc::new(secret),
        })
    }

    /// Reads a chain and its key from PEM files.
    ///
    /// # Errors
    /// As [`Identity::from_pem`], or a file cannot be read.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&read(certificate)?, &read(key)?)
    }

    /// The same, sending the authority's certificate along: whoever knows it by its fingerprint
    /// finds it there.
    ///
    /// # Errors
    /// If `authority` holds no certificate.
    pub fn with_authority(&self, authority: &str) -> Result<Self, IdentityError> {
        let mut chain = self.chain.to_vec();
        chain.extend(certificates(authority.as_bytes())?);
        let certified = CertifiedKey::new(chain.clone(), self.key.clone());
        Ok(Self {
            resolver: Arc::new(SingleCertAndKey::from(certified)),
            chain: chain.into(),
            ..self.clone()
        })
    }

    /// What the certificate says.
    ///
    /// # Errors
    /// [`CertificateProblem`] if it cannot be parsed.
    pub fn facts(&self) -> Result<CertificateFacts, CertificateProblem> {
        CertificateFacts::from_der(&self.chain[0])
    }

    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// 32 secret bytes that depend on the private key and `purpose` alone, so that they are the
    /// same after a restart and need no file of their own.
    pub(crate) fn derive_secret(&self, purpose: &str) -> [u8; 32] {
        let tag = ring::hmac::sign(&self.secret, purpose.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("facts", &self.facts()).finish_non_exhaustive()
    }
}

/// What a peer is, as far as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// It showed no certificate.
    Anonymous,
    /// It showed a client's certificate.
    Client,
    /// It showed a node's certificate.
    Node,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is: the name that rights are given to. `None` for an anonymous peer.
    pub principal: Option<String>,
    /// What it is.
    pub kind: PeerKind,
    /// Where it was when it connected. It may move; see [`crate::Connection::remote_address`].
    pub address: SocketAddr,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.principal.as_deref().unwrap_or("anonymous");
        match self.kind {
            PeerKind::Node => write!(f, "node {name} at {}", self.address),
            PeerKind::Anonymous | PeerKind::Client => write!(f, "{name} at {}", self.address),
        }
    }
}

/// What a certificate says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Who it is for: the name that rights are given to.
    pub principal: String,
    /// What it is for: a client or a node.
    pub kind: PeerKind,
    /// Begin of its validity.
    pub not_before: Instant,
    /// End of its validity.
    pub not_after: Instant,
    /// DNS names it is valid for.
    pub names: Vec<String>,
    /// IP addresses it is valid for.
    pub addresses: Vec<IpAddr>,
}

impl CertificateFacts {
    /// Reads them from the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`CertificateProblem`] if there is none or it names no principal.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateProblem> {
        let chain = certificates(pem).map_err(|e| CertificateProblem::Malformed(e.to_string()))?;
        Self::from_der(&chain[0])
    }

    /// Reads them from a certificate's DER.
    ///
    /// # Errors
    /// [`CertificateProblem`] if it cannot be parsed or names no principal.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateProblem> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| CertificateProblem::Malformed(error.to_string()))?;
        let alternatives = certificate
            .subject_alternative_name()
            .map_err(|error| CertificateProblem::Malformed(error.to_string()))?;
        let mut facts = Self {
            principal: String::new(),
            kind: PeerKind::Client,
            not_before: Instant::from(certificate.validity().not_before.to_datetime()),
            not_after: Instant::from(certificate.validity().not_after.to_datetime()),
            names: Vec::new(),
            addresses: Vec::new(),
        };
        for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
            facts.add(name);
        }
        if facts.principal.is_empty() {
            let mut common_names = certificate.subject().iter_common_name();
            if let Some(Ok(name)) = common_names.next().map(|name| name.as_str()) {
                name.clone_into(&mut facts.principal);
            }
        }
        check_principal(&facts.principal)?;
        Ok(facts)
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.names.push((*name).to_owned()),
            GeneralName::URI(uri) => {
                if let Some(name) = uri.strip_prefix(NODE_URI_PREFIX) {
                    name.clone_into(&mut self.principal);
                    self.kind = PeerKind::Node;
                } else if let Some(name) = uri.strip_prefix(CLIENT_URI_PREFIX) {
                    name.clone_into(&mut self.principal);
                    self.kind = PeerKind::Client;
                }
            }
            GeneralName::IPAddress(bytes) => {
                if let Ok(bytes) = <[u8; 4]>::try_from(*bytes) {
                    self.addresses.push(IpAddr::from(bytes));
                } else if let Ok(bytes) = <[u8; 16]>::try_from(*bytes) {
                    self.addresses.push(IpAddr::from(bytes));
                }
            }
            _ => {}
        }
    }
}

/// Whether `name` can be a principal: 1 to [`NAME_BYTES_MAX`] bytes, no control characters.
fn check_principal(name: &str) -> Result<(), CertificateProblem> {
    if name.is_empty() {
        return Err(CertificateProblem::NoPrincipal("it has no common name".into()));
    }
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(CertificateProblem::NoPrincipal("its name is not a usable one".into()));
    }
    Ok(())
}

pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .take(CERTIFICATES_MAX + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| IdentityError::Certificate(error.to_string()))?;
    match found.len() {
        0 => Err(IdentityError::Certificate("the text holds no certificate".into())),
        1..=CERTIFICATES_MAX => Ok(found),
        _ => Err(IdentityError::Certificate(format!("more than {CERTIFICATES_MAX}"))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    crate::folder::read_bounded(path, PEM_BYTES_MAX)
        .map_err(|source| IdentityError::Io { path: path.to_owned(), source })
}
