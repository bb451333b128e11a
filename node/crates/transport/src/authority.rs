//! The site's certificate authority, kept in a folder and made at first start.
//!
//! | file       | what                                   | access | written |
//! |------------|----------------------------------------|--------|---------|
//! | `ca.key`   | key of the authority, ECDSA P-256      | 0600   | first   |
//! | `ca.pem`   | its certificate; clients need a copy   | 0644   | second  |
//! | `node.key` | key of this node                       | 0600   | third   |
//! | `node.pem` | certificate of this node               | 0644   | fourth  |
//!
//! Each is written atomically and in this order, so a crash leaves a prefix of the list, which
//! the next start completes. `ca.pem` follows from `ca.key` (its name is derived from the key),
//! so a lost one is made again and earlier certificates stay valid under it. Anything else that
//! does not fit together is refused with a text that says what to do: a key is never replaced.
//!
//! `ca.key` may be taken off the machine. The node then uses what it has and issues nothing.
//!
//! Validity begins in 1970, because machines boot with that date. It ends after 25 years for the
//! authority, 10 for a node, and as the operator says for a client, never after the authority's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use ring::rand::SecureRandom;
use rustls::pki_types::ServerName;
use time::OffsetDateTime;

use crate::clock::Clock;
use crate::folder::{self, Secrecy};
use crate::identity::{
    CLIENT_URI_PREFIX, CertificateFacts, Identity, IdentityError, NODE_SERVER_NAME,
    NODE_URI_PREFIX, Trust,
};
use crate::join::{self, Fingerprint, SigningRequest};
use crate::names::{NodeNames, check_issued_name};
use crate::problem::{CertificateProblem, Instant};
use crate::tls;

pub(crate) const CA_CERTIFICATE: &str = "ca.pem";
pub(crate) const CA_KEY: &str = "ca.key";
pub(crate) const NODE_CERTIFICATE: &str = "node.pem";
pub(crate) const NODE_KEY: &str = "node.key";
pub(crate) const FILE_BYTES_MAX: u64 = 256 * 1024;

const DAY: Duration = Duration::from_secs(86_400);
/// How long the authority's own certificate is valid.
const CA_VALID: Duration = DAY.saturating_mul(365 * 25);
/// How long a node's certificate is valid.
pub const NODE_VALID: Duration = DAY.saturating_mul(365 * 10);
/// A node's certificate with less than this left is issued anew at start.
const NODE_RENEW_BEFORE: Duration = DAY.saturating_mul(365);

/// Why the authority could not be loaded, made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The files do not fit together in a way that could be repaired without replacing a key.
    #[error("{dir} is incomplete: {reason}")]
    HalfMade {
        /// The folder.
        dir: PathBuf,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The authority's key is not here.
    #[error("cannot issue certificates: ca.key is not in the folder")]
    NoKey,
    /// A name cannot be put into a certificate.
    #[error("{name:?} cannot be put into a certificate: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Issue(String),
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct CredentialPem {
    /// The certificate. Not secret.
    pub certificate: String,
    /// The private key, PKCS #8. Secret.
    pub key: String,
}

impl CredentialPem {
    /// The pair as an identity to connect or listen with.
    ///
    /// # Errors
    /// If the texts were changed and do not belong together any more.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::from_pem(self.certificate.as_bytes(), self.key.as_bytes())
    }
}

/// What [`Authority::load_or_create`] found or made.
#[derive(Debug)]
pub struct NodeCredentials {
    /// The authority: whom to trust, and what issues certificates.
    pub authority: Authority,
    /// What this node shows to others.
    pub identity: Identity,
    /// Whether the authority was made just now (a first start).
    pub authority_created: bool,
    /// Why the node's certificate was issued just now, if it was.
    pub node_issued: Option<String>,
    /// Something an operator should know: a certificate about to expire, a key others could read.
    pub warnings: Vec<String>,
}

/// A certificate authority, with its key or without.
pub struct Authority {
    certificate: String,
    not_after: Instant,
    trust: Trust,
    issuer: Option<Issuer<'static, KeyPair>>,
    clock: Clock,
}

impl Authority {
    /// Loads the authority and the node's certificate from `dir`, making what is missing.
    ///
    /// Idempotent. Not safe against a second process on the same folder: the caller holds the
    /// lock of the data folder. Blocks on file I/O.
    ///
    /// # Errors
    /// [`AuthorityError`]; a folder that does not fit together is left as it is.
    pub fn load_or_create(
        dir: &Path,
        names: &NodeNames,
        clock: &Clock,
    ) -> Result<NodeCredentials, AuthorityError> {
        folder::prepare(dir).map_err(io_at(dir))?;
        let mut files = Files::read(dir)?;
        let mut warnings = files.tighten(dir)?;
        let (authority, authority_created) = Self::load_or_make(dir, &mut files, clock)?;
        let stale = match authority.examine(dir, &files, names)? {
            Examined::Good(identity) => {
                return Ok(NodeCredentials {
                    authority,
                    identity,
                    authority_created,
                    node_issued: None,
                    warnings,
                });
            }
            Examined::Usable(identity, problem) if authority.issuer.is_none() => {
                warnings.push(format!("the node's certificate is used as it is, but {problem}"));
                return Ok(NodeCredentials {
                    authority,
                    identity,
                    authority_created,
                    node_issued: None,
                    warnings,
                });
            }
            Examined::Usable(_, problem) | Examined::Missing(problem) => problem,
        };
        let issued = authority.issue_for_folder(&files, names)?;
        if files.node_key.is_none() {
            write(dir, NODE_KEY, &issued.key, Secrecy::Private)?;
        }
        write(dir, NODE_CERTIFICATE, &issued.certificate, Secrecy::Public)?;
        let identity = issued.identity().map_err(|e| AuthorityError::Issue(e.to_string()))?;
        Ok(NodeCredentials {
            authority,
            identity,
            authority_created,
            node_issued: Some(stale),
            warnings,
        })
    }

    /// Loads the authority from `dir` as it is, to issue certificates with.
    ///
    /// # Errors
    /// [`AuthorityError`]; [`AuthorityError::HalfMade`] if there is none.
    pub fn load(dir: &Path, clock: &Clock) -> Result<Self, AuthorityError> {
        let files = Files::read(dir)?;
        let Some(certificate) = &files.ca else {
            let reason = "it holds no ca.pem; a node makes one at its first start".to_owned();
            return Err(AuthorityError::HalfMade { dir: dir.to_owned(), reason });
        };
        Self::from_pem(dir, certificate, files.ca_key.as_deref(), clock)
    }

    /// A new authority that exists in memory only, for tests and benches.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`] if the system gives no randomness.
    pub fn in_memory(clock: &Clock) -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let certificate = self_signed(&key, clock)?;
        Self::from_pem(Path::new("memory"), &certificate, Some(&key.serialize_pem()), clock)
    }

    /// The authority's certificate, PEM: what clients need a copy of.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// Trust in this authority and nobody else.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whether the key is here.
    pub fn can_issue(&self) -> bool {
        self.issuer.is_some()
    }

    /// Issues a certificate for a node. It may be used as a server's and as a client's.
    ///
    /// # Errors
    /// [`AuthorityError::NoKey`] without `ca.key`, or [`AuthorityError::Issue`].
    pub fn issue_node(
        &self,
        names: &NodeNames,
        valid: Duration,
    ) -> Result<CredentialPem, AuthorityError> {
        self.sign(self.node_params(names, valid)?, new_key()?)
    }

    /// The fingerprint of its certificate.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`] if that cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint, AuthorityError> {
        let pem = self.certificate.as_bytes();
        join::fingerprint(pem).map_err(|error| AuthorityError::Issue(error.to_string()))
    }

    /// Issues a certificate for a node that keeps its key to itself; PEM.
    ///
    /// # Errors
    /// As [`Authority::issue_node`].
    pub fn sign_node(
        &self,
        request: &SigningRequest,
        names: &NodeNames,
        valid: Duration,
    ) -> Result<String, AuthorityError> {
        let issuer = self.issuer.as_ref().ok_or(AuthorityError::NoKey)?;
        let params = self.node_params(names, valid)?;
        Ok(params.signed_by(&request.key, issuer).map_err(issue)?.pem())
    }

    /// Issues a certificate for the client `principal`, valid for `valid` from now.
    ///
    /// # Errors
    /// [`AuthorityError::InvalidName`], [`AuthorityError::NoKey`] without `ca.key`, or
    /// [`AuthorityError::Issue`].
    pub fn issue_client(
        &self,
        principal: &str,
        valid: Duration,
    ) -> Result<CredentialPem, AuthorityError> {
        check_issued_name(principal)?;
        let mut params = self.leaf_params(principal, CLIENT_URI_PREFIX, valid)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, new_key()?)
    }

    fn load_or_make(
        dir: &Path,
        files: &mut Files,
        clock: &Clock,
    ) -> Result<(Self, bool), AuthorityError> {
        if let Some(certificate) = &files.ca {
            let authority = Self::from_pem(dir, certificate, files.ca_key.as_deref(), clock)?;
            return Ok((authority, false));
        }
        if files.ca_key.is_none() && (files.node.is_some() || files.node_key.is_some()) {
            let reason = "it holds a node certificate or key but no ca.pem; put the ca.pem of \
                          the authority that issued them back, or move the folder away";
            return Err(AuthorityError::HalfMade {
                dir: dir.to_owned(),
                reason: reason.to_owned(),
            });
        }
        let key = match &files.ca_key {
            Some(pem) => parse_key(&dir.join(CA_KEY), pem)?,
            None => {
                let key = new_key()?;
                write(dir, CA_KEY, &key.serialize_pem(), Secrecy::Private)?;
                key
            }
        };
        let certificate = self_signed(&key, clock)?;
        write(dir, CA_CERTIFICATE, &certificate, Secrecy::Public)?;
        let authority = Self::from_pem(dir, &certificate, Some(&key.serialize_pem()), clock)?;
        files.ca = Some(certificate);
        Ok((authority, true))
    }

    fn from_pem(
        dir: &Path,
        certificate: &str,
        key: Option<&str>,
        clock: &Clock,
    ) -> Result<Self, AuthorityError> {
        let unusable =
            |name: &str, reason: String| AuthorityError::Unusable { path: dir.join(name), reason };
        let trust = Trust::from_pem(certificate.as_bytes())
            .map_err(|error| unusable(CA_CERTIFICATE, error.to_string()))?;
        let facts = CertificateFacts::from_pem(certificate.as_bytes())
            .map_err(|error| unusable(CA_CERTIFICATE, error.to_string()))?;
        let issuer = match key {
            None => None,
            Some(pem) => {
                let key = parse_key(&dir.join(CA_KEY), pem)?;
                Identity::from_pem(certificate.as_bytes(), pem.as_bytes()).map_err(|error| {
                    unusable(CA_KEY, format!("it does not belong to ca.pem ({error})"))
                })?;
                let issuer = Issuer::from_ca_cert_pem(certificate, key)
                    .map_err(|error| unusable(CA_CERTIFICATE, error.to_string()))?;
                Some(issuer)
            }
        };
        Ok(Self {
            certificate: certificate.to_owned(),
            not_after: facts.not_after,
            trust,
            issuer,
            clock: clock.clone(),
        })
    }

    /// Looks at the node's certificate: can it be used, and should it be issued anew?
    fn examine(
        &self,
        dir: &Path,
        files: &Files,
        names: &NodeNames,
    ) -> Result<Examined, AuthorityError> {
        let (certificate, key) = match (&files.node, &files.node_key) {
            (Some(certificate), Some(key)) => (certificate, key),
            _ if self.issuer.is_some() => return Ok(Examined::Missing("there was none".into())),
            (_, _) => {
                let reason = "node.pem and node.key are not both there, and neither is ca.key, \
                              which could issue them; put one or the other back";
                return Err(AuthorityError::HalfMade {
                    dir: dir.to_owned(),
                    reason: reason.to_owned(),
                });
            }
        };
        let identity = match Identity::from_pem(certificate.as_bytes(), key.as_bytes()) {
            Ok(identity) => identity,
            // The key stays as it is, so only a certificate can be the one to replace.
            Err(IdentityError::Mismatch | IdentityError::Certificate(_))
                if self.issuer.is_some() =>
            {
                return Ok(Examined::Missing("node.pem did not belong to node.key".into()));
            }
            Err(error) => {
                let reason = error.to_string();
                return Err(AuthorityError::Unusable { path: dir.join(NODE_CERTIFICATE), reason });
            }
        };
        Ok(match self.problem_of(&identity, names) {
            None => Examined::Good(identity),
            Some(problem) => Examined::Usable(identity, problem),
        })
    }

    fn problem_of(&self, identity: &Identity, names: &NodeNames) -> Option<String> {
        if let Err(problem) = self.check_node(identity) {
            return Some(format!("clients would not accept it: {problem}"));
        }
        let facts = match identity.facts() {
            Ok(facts) => facts,
            Err(problem) => return Some(problem.to_string()),
        };
        let renew_at = OffsetDateTime::from(self.clock.now() + NODE_RENEW_BEFORE);
        if facts.not_after.as_date_time() < renew_at {
            return Some(format!("it expires on {}", facts.not_after));
        }
        (!names.are_covered_by(&facts)).then(|| "it does not hold all names of this node".into())
    }

    /// Checks a node's identity as a client of this site would.
    fn check_node(&self, identity: &Identity) -> Result<(), CertificateProblem> {
        let name = ServerName::try_from(NODE_SERVER_NAME)
            .map_err(|error| CertificateProblem::Other(error.to_string()))?;
        tls::check_server(&self.trust, identity.chain(), &name, &self.clock)
    }

    /// Issues the node's certificate, for the key that is in the folder if there is one.
    fn issue_for_folder(
        &self,
        files: &Files,
        names: &NodeNames,
    ) -> Result<CredentialPem, AuthorityError> {
        let key = match &files.node_key {
            Some(pem) => parse_key(Path::new(NODE_KEY), pem)?,
            None => new_key()?,
        };
        self.sign(self.node_params(names, NODE_VALID)?, key)
    }

    fn node_params(
        &self,
        names: &NodeNames,
        valid: Duration,
    ) -> Result<CertificateParams, AuthorityError> {
        let mut params = self.leaf_params(&names.node, NODE_URI_PREFIX, valid)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        for name in &names.names {
            let name = name.as_str().try_into().map_err(issue)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(names.addresses.iter().copied().map(SanType::IpAddress));
        Ok(params)
    }

    fn leaf_params(
        &self,
        name: &str,
        uri_prefix: &str,
        valid: Duration,
    ) -> Result<CertificateParams, AuthorityError> {
        let mut params = params(name)?;
        params.not_after =
            (OffsetDateTime::from(self.clock.now()) + valid).min(self.not_after.as_date_time());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let uri = format!("{uri_prefix}{name}").try_into().map_err(issue)?;
        params.subject_alt_names.push(SanType::URI(uri));
        Ok(params)
    }

    fn sign(
        &self,
        params: CertificateParams,
        key: KeyPair,
    ) -> Result<CredentialPem, AuthorityError> {
        let issuer = self.issuer.as_ref().ok_or(AuthorityError::NoKey)?;
        let certificate = params.signed_by(&key, issuer).map_err(issue)?;
        Ok(CredentialPem { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("not_after", &self.not_after)
            .field("can_issue", &self.can_issue())
            .finish_non_exhaustive()
    }
}

enum Examined {
    /// Nothing to do.
    Good(Identity),
    /// It works, but should be issued anew, for the stated reason.
    Usable(Identity, String),
    /// It has to be issued, for the stated reason.
    Missing(String),
}

/// The four files, where they are there.
struct Files {
    ca: Option<String>,
    ca_key: Option<String>,
    node: Option<String>,
    node_key: Option<String>,
}

impl Files {
    fn read(dir: &Path) -> Result<Self, AuthorityError> {
        let read = |name: &str| -> Result<Option<String>, AuthorityError> {
            let path = dir.join(name);
            let bytes = folder::read_optional(&path, FILE_BYTES_MAX).map_err(io_at(&path))?;
            bytes
                .map(|bytes| {
                    String::from_utf8(bytes).map_err(|_| AuthorityError::Unusable {
                        path: path.clone(),
                        reason: "it is not PEM text".to_owned(),
                    })
                })
                .transpose()
        };
        Ok(Self {
            ca: read(CA_CERTIFICATE)?,
            ca_key: read(CA_KEY)?,
            node: read(NODE_CERTIFICATE)?,
            node_key: read(NODE_KEY)?,
        })
    }

    fn tighten(&self, dir: &Path) -> Result<Vec<String>, AuthorityError> {
        let mut warnings = Vec::new();
        for (name, content) in [(CA_KEY, &self.ca_key), (NODE_KEY, &self.node_key)] {
            let path = dir.join(name);
            if content.is_some() && folder::tighten(&path).map_err(io_at(&path))? {
                warnings.push(format!(
                    "{} could be read by other users; it is 0600 now, but consider the key known",
                    path.display()
                ));
            }
        }
        Ok(warnings)
    }
}

fn params(common_name: &str) -> Result<CertificateParams, AuthorityError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Weir");
    name.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = OffsetDateTime::UNIX_EPOCH;
    let mut serial = [0; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| AuthorityError::Issue("the system gives no randomness".into()))?;
    // Positive and of full length, whatever was drawn.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// The authority's certificate: a function of its key, except for serial number and end date.
fn self_signed(key: &KeyPair, clock: &Clock) -> Result<String, AuthorityError> {
    // The key is in the name, so that two sites' authorities have different ones and a
    // certificate of the wrong site is an unknown issuer rather than a bad signature.
    let id = CertificateParams::default().key_identifier(key);
    let id: String = id.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let mut params = params(&format!("Weir site authority {id}"))?;
    params.not_after = OffsetDateTime::from(clock.now() + CA_VALID);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key).map_err(issue)?.pem())
}

pub(crate) fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)
}

fn parse_key(path: &Path, pem: &str) -> Result<KeyPair, AuthorityError> {
    KeyPair::from_pem(pem).map_err(|error| AuthorityError::Unusable {
        path: path.to_owned(),
        reason: format!("it holds no usable private key: {error}"),
    })
}

pub(crate) fn write(
    dir: &Path,
    name: &str,
    text: &str,
    secrecy: Secrecy,
) -> Result<(), AuthorityError> {
    folder::write(dir, name, text.as_bytes(), secrecy).map_err(io_at(&dir.join(name)))
}

fn issue(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Issue(error.to_string())
}

pub(crate) fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::Io { path, source }
}
