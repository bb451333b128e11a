//! rustls settings of both sides: TLS 1.3 only, ring, ALPN `weir/1`, no session resumption.
//!
//! Resumption is off because a resumed session skips the certificate checks: an expired client
//! would stay in for as long as it keeps reconnecting. It would save 0.3 ms per connection.
//!
//! rustls hands a failed check to the other side as an alert and to this side as a string. To
//! keep the reason typed, every connection gets its own wrapper around the shared verifier,
//! which notes what was wrong (`Noted`). Wrappers cost a few reference counts per handshake.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use weir_core::wire::ALPN;

use crate::clock::Clock;
use crate::error::BindError;
use crate::identity::{CertificateFacts, Identity, NODE_SERVER_NAME, Trust};
use crate::join::{Fingerprint, Pinned};
use crate::problem::CertificateProblem;

/// Whether a listener wants to know its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client without a valid certificate is refused.
    Required,
    /// A client may come without a certificate; one that it shows must be valid all the same.
    Optional,
}

/// What a client needs to know to connect: whom to trust and who it is.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Authorities whose node certificates are accepted.
    pub trust: Trust,
    /// The client's own certificate; without one it is anonymous.
    pub identity: Option<Identity>,
    /// The name that the node's certificate must hold.
    pub server_name: String,
    /// What certificates are checked against.
    pub clock: Clock,
}

impl ClientTls {
    /// Trusts `trust`, anonymous, on the system clock, checking for [`NODE_SERVER_NAME`].
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            identity: None,
            server_name: NODE_SERVER_NAME.to_owned(),
            clock: Clock::system(),
        }
    }

    /// The same with a certificate of its own.
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }
}

/// What was wrong with the peer's certificate, if its check failed.
pub(crate) type Note = Arc<OnceLock<CertificateProblem>>;

/// Shared settings of all connections that one client makes.
#[derive(Debug)]
pub(crate) struct ClientSetup {
    config: rustls::ClientConfig,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl ClientSetup {
    pub(crate) fn new(tls: &ClientTls) -> Result<Self, BindError> {
        let verifier = server_verifier(&tls.trust).map_err(tls_error)?;
        Self::with_verifier(verifier, tls.identity.as_ref(), &tls.clock)
    }

    /// For a client that knows no more of the site than its authority's fingerprint, and has no
    /// certificate yet.
    pub(crate) fn pinned(authority: Fingerprint, clock: &Clock) -> Result<Self, BindError> {
        Self::with_verifier(Arc::new(Pinned(authority)), None, clock)
    }

    fn with_verifier(
        verifier: Arc<dyn ServerCertVerifier>,
        identity: Option<&Identity>,
        clock: &Clock,
    ) -> Result<Self, BindError> {
        let provider = crypto_provider();
        let builder = rustls::ClientConfig::builder_with_details(provider, Arc::new(clock.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls_error)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(identity.resolver.clone()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config, verifier })
    }

    /// Settings for one connection, and where its verifier notes what was wrong.
    pub(crate) fn connection(&self) -> (rustls::ClientConfig, Note) {
        let note = Note::default();
        let mut config = self.config.clone();
        let verifier = Noted { inner: self.verifier.clone(), note: note.clone() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        (config, note)
    }
}

/// Shared settings of all connections that one listener accepts.
#[derive(Debug)]
pub(crate) struct ServerSetup {
    provider: Arc<CryptoProvider>,
    clock: Arc<Clock>,
    identity: Identity,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ServerSetup {
    pub(crate) fn new(
        identity: Identity,
        auth: ClientAuth,
        trust: &Trust,
        clock: Clock,
    ) -> Result<Self, BindError> {
        let provider = crypto_provider();
        let builder =
            WebPkiClientVerifier::builder_with_provider(trust.roots.clone(), provider.clone());
        let builder = match auth {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        let verifier = builder.build().map_err(|error| BindError::Tls(error.to_string()))?;
        Ok(Self { provider, clock: Arc::new(clock), identity, verifier })
    }

    /// Settings for one connection, and where its verifier notes what was wrong.
    pub(crate) fn connection(&self) -> Result<(rustls::ServerConfig, Note), BindError> {
        let note = Note::default();
        let verifier = Noted { inner: self.verifier.clone(), note: note.clone() };
        let mut config =
            rustls::ServerConfig::builder_with_details(self.provider.clone(), self.clock.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(tls_error)?
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(self.identity.resolver.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        // A client without AES instructions asks for ChaCha20 itself; a node without them must
        // have the last word.
        config.ignore_client_order = !has_aes();
        Ok((config, note))
    }
}

/// ring, with the cheapest cipher for this CPU first.
pub(crate) fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            let cipher_suites = if has_aes() {
                vec![
                    TLS13_AES_128_GCM_SHA256,
                    TLS13_CHACHA20_POLY1305_SHA256,
                    TLS13_AES_256_GCM_SHA384,
                ]
            } else {
                vec![
                    TLS13_CHACHA20_POLY1305_SHA256,
                    TLS13_AES_128_GCM_SHA256,
                    TLS13_AES_256_GCM_SHA384,
                ]
            };
            Arc::new(CryptoProvider { cipher_suites, ..rustls::crypto::ring::default_provider() })
        })
        .clone()
}

/// Checks a node's chain as a client that trusts `trust` and asks for `name` does.
pub(crate) fn check_server(
    trust: &Trust,
    chain: &[CertificateDer<'static>],
    name: &ServerName<'_>,
    clock: &Clock,
) -> Result<(), CertificateProblem> {
    let now = clock.current_time().unwrap_or_else(UnixTime::now);
    let [leaf, intermediates @ ..] = chain else {
        return Err(CertificateProblem::Malformed("there is no certificate".into()));
    };
    server_verifier(trust)
        .and_then(|verifier| verifier.verify_server_cert(leaf, intermediates, name, &[], now))
        .map(|_| ())
        .map_err(|error| CertificateProblem::from_rustls(&error, "server"))
}

fn server_verifier(trust: &Trust) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(trust.roots.clone(), crypto_provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

/// Whether this CPU computes AES-GCM in hardware.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

fn tls_error(error: Error) -> BindError {
    BindError::Tls(error.to_string())
}

/// A verifier that notes what was wrong.
#[derive(Debug)]
struct Noted<V> {
    inner: V,
    note: Note,
}

impl<V> Noted<V> {
    fn note(&self, error: Error, role: &'static str) -> Error {
        // One connection is checked once; a second note would say the same.
        let _ = self.note.set(CertificateProblem::from_rustls(&error, role));
        error
    }
}

/// The parts of both verifier traits that are not about certificates.
macro_rules! forward_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls12_signature(message, cert, dss)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls13_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.inner.supported_verify_schemes()
        }
    };
}

impl ServerCertVerifier for Noted<Arc<dyn ServerCertVerifier>> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| self.note(error, "server"))
    }

    forward_signatures!();
}

impl ClientCertVerifier for Noted<Arc<dyn ClientCertVerifier>> {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| self.note(error, "client"))?;
        // A certificate that names nobody could be given no rights: say so here, once.
        if let Err(problem) = CertificateFacts::from_der(end_entity) {
            let error = CertificateError::Other(OtherError(Arc::new(problem.clone())));
            let _ = self.note.set(problem);
            return Err(Error::InvalidCertificate(error));
        }
        Ok(verified)
    }

    forward_signatures!();
}
