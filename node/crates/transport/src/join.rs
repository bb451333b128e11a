//! How a machine that has nothing but a token becomes a node: it knows the site by the
//! *fingerprint* of the authority's certificate, makes a key of its own, and has the authority sign
//! for it.
//!
//! The nodes of a site send the authority's certificate along with their own. A new node takes it
//! from there if its fingerprint is the token's, and then checks the chain as every client does; so
//! its secret goes to nobody else, and before anything is believed.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PublicKeyData};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::authority::{
    AuthorityError, CA_CERTIFICATE, CA_KEY, FILE_BYTES_MAX, NODE_CERTIFICATE, NODE_KEY, io_at,
    new_key, write,
};
use crate::folder::{self, Secrecy};
use crate::identity::{Identity, IdentityError};
use crate::tls::crypto_provider;

/// Largest signing request, in bytes.
const REQUEST_BYTES_MAX: usize = 4 * 1024;

/// SHA-256 of an authority's certificate: enough to know it by.
pub type Fingerprint = [u8; 32];

/// The fingerprint of the first certificate in a PEM text.
///
/// # Errors
/// [`IdentityError::Certificate`] if there is none.
pub fn fingerprint(pem: &[u8]) -> Result<Fingerprint, IdentityError> {
    let certificate = CertificateDer::from_pem_slice(pem);
    let certificate = certificate.map_err(|error| IdentityError::Certificate(error.to_string()))?;
    Ok(sha256(&certificate))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    hash
}

/// A request to sign for the key in `dir`, which is made if it is not there: whoever asks twice
/// asks for the same key. Blocks on file I/O.
///
/// # Errors
/// [`AuthorityError`], if the folder holds an authority's certificate, too: then it is no new
/// node's.
pub fn prepare(dir: &Path) -> Result<Vec<u8>, AuthorityError> {
    folder::prepare(dir).map_err(io_at(dir))?;
    if dir.join(CA_CERTIFICATE).exists() || dir.join(CA_KEY).exists() {
        let reason = "it holds certificates of a node that was started before; a node that joins \
                      begins with an empty data folder";
        return Err(AuthorityError::HalfMade { dir: dir.to_owned(), reason: reason.to_owned() });
    }
    let key = match node_key(dir)? {
        Some(pem) => KeyPair::from_pem(&pem).map_err(|error| AuthorityError::Unusable {
            path: dir.join(NODE_KEY),
            reason: format!("it holds no usable private key: {error}"),
        })?,
        None => {
            let key = new_key()?;
            write(dir, NODE_KEY, &key.serialize_pem(), Secrecy::Private)?;
            key
        }
    };
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.map_err(|error| AuthorityError::Issue(error.to_string()))?;
    Ok(request.der().to_vec())
}

/// Stores what a node was given beside its key, once it is known to fit it. Blocks on file I/O.
///
/// # Errors
/// [`AuthorityError`] if they do not belong together, or cannot be written.
pub fn keep(dir: &Path, authority: &str, certificate: &str) -> Result<(), AuthorityError> {
    let key = node_key(dir)?.unwrap_or_default();
    Identity::from_pem(certificate.as_bytes(), key.as_bytes()).map_err(|error| {
        let path = dir.join(NODE_CERTIFICATE);
        AuthorityError::Unusable { path, reason: error.to_string() }
    })?;
    write(dir, NODE_CERTIFICATE, certificate, Secrecy::Public)?;
    write(dir, CA_CERTIFICATE, authority, Secrecy::Public)
}

fn node_key(dir: &Path) -> Result<Option<String>, AuthorityError> {
    let path = dir.join(NODE_KEY);
    let bytes = folder::read_optional(&path, FILE_BYTES_MAX).map_err(io_at(&path))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// A request that was checked: whoever made it has the key.
pub struct SigningRequest {
    pub(crate) key: rcgen::PublicKey,
}

impl SigningRequest {
    /// Reads and checks a request. What it asks to be certified besides its key does not count.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`].
    pub fn read(der: &[u8]) -> Result<SigningRequest, AuthorityError> {
        if der.len() > REQUEST_BYTES_MAX {
            return Err(AuthorityError::Issue("the signing request is too large".to_owned()));
        }
        let request = CertificateSigningRequestParams::from_der(
            &CertificateSigningRequestDer::from(der.to_vec()),
        );
        let request = request.map_err(|error| AuthorityError::Issue(error.to_string()))?;
        Ok(SigningRequest { key: request.public_key })
    }

    /// SHA-256 of the public key.
    #[must_use]
    pub fn key_hash(&self) -> [u8; 32] {
        sha256(self.key.der_bytes())
    }
}

impl std::fmt::Debug for SigningRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningRequest").finish_non_exhaustive()
    }
}

/// Trusts the one authority of this fingerprint, whose certificate the node has to send along.
#[derive(Debug)]
pub(crate) struct Pinned(pub Fingerprint);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|certificate| sha256(certificate) == self.0);
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto_provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto_provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider().signature_verification_algorithms.supported_schemes()
    }
}
