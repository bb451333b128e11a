//! Certificates of both sides: what is accepted, and what each side says when it is not.

use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use weir_transport::{
    CertificateProblem, ClientAuth, ClientProfile, Clock, ConnectError, ConnectionLost,
    HandshakeError, Identity, PeerKind, Refusal, Trust, build_date,
};

use crate::support::{DAY, Node, Site, client, clock_ahead, connect, echo, why_refused};

#[tokio::test]
async fn anonymous_is_welcome_where_certificates_are_optional() {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let (of_client, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    assert_eq!(of_node.peer().kind, PeerKind::Anonymous);
    assert_eq!(of_node.peer().principal, None);
    assert!(of_node.peer().address.ip().is_loopback());
    assert_eq!(of_client.peer().kind, PeerKind::Node);
    assert_eq!(of_client.peer().principal.as_deref(), Some("edge-1"));
    echo(&of_client, &of_node).await;
}

#[tokio::test]
async fn anonymous_is_refused_where_certificates_are_required() {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Required));
    let (lost, refusal) = tokio::join!(why_refused(site.anonymous(), node.address), node.refusal());
    assert_eq!(refusal, HandshakeError::NoCertificate);
    let lost = lost.unwrap();
    assert_eq!(lost, ConnectionLost::Refused(Refusal::CertificateRequired));
    assert!(lost.to_string().contains("pass --cert and --key"), "{lost}");
    assert!(!lost.retryable());
}

#[tokio::test]
async fn a_client_is_known_by_its_principal() {
    let site = Site::new();
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        let mut node = Node::start(site.listen(auth));
        let endpoint = client(site.known("pump-7@plant"));
        let (of_client, of_node) =
            tokio::join!(connect(&endpoint, node.address), node.connection());
        assert_eq!(of_node.peer().kind, PeerKind::Client);
        assert_eq!(of_node.peer().principal.as_deref(), Some("pump-7@plant"));
        echo(&of_client, &of_node).await;
    }
}

#[tokio::test]
async fn a_node_may_be_a_client() {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Required));
    let endpoint = client(site.anonymous().with_identity(site.node_identity()));
    let (_of_client, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    assert_eq!(of_node.peer().kind, PeerKind::Node);
    assert_eq!(of_node.peer().principal.as_deref(), Some("edge-1"));
}

/// Goal: a certificate of another site does not get in, on a lenient listener either.
#[tokio::test]
async fn a_client_of_another_site_is_refused() {
    let (site, other) = (Site::new(), Site::new());
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        let mut node = Node::start(site.listen(auth));
        let stranger = site.anonymous().with_identity(other.client_identity("stranger"));
        let (lost, refusal) = tokio::join!(why_refused(stranger, node.address), node.refusal());
        let expected = HandshakeError::ClientCertificate(CertificateProblem::UntrustedIssuer);
        assert_eq!(refusal, expected);
        assert_eq!(lost.unwrap(), ConnectionLost::Refused(Refusal::UntrustedIssuer));
    }
}

#[tokio::test]
async fn an_expired_client_is_refused() {
    let site = Site::new();
    let mut listen = site.listen(ClientAuth::Required);
    listen.clock = clock_ahead(2 * DAY);
    let mut node = Node::start(listen);
    let (lost, refusal) =
        tokio::join!(why_refused(site.known("late"), node.address), node.refusal());
    assert!(
        matches!(
            refusal,
            HandshakeError::ClientCertificate(CertificateProblem::Expired { at, now }) if at < now
        ),
        "{refusal}"
    );
    let lost = lost.unwrap();
    assert!(matches!(lost, ConnectionLost::Refused(Refusal::CertificateExpired { .. })), "{lost}");
    assert!(lost.to_string().contains("expired"), "{lost}");
}

#[tokio::test]
async fn a_node_of_another_site_is_refused() {
    let (site, other) = (Site::new(), Site::new());
    let mut node = Node::start(other.listen(ClientAuth::Optional));
    let (error, refusal) =
        tokio::join!(why_refused(site.anonymous(), node.address), node.refusal());
    let error = error.unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::NodeCertificate { problem: CertificateProblem::UntrustedIssuer, .. }
        ),
        "{error}"
    );
    assert!(!error.retryable());
    assert_eq!(refusal, HandshakeError::RefusedByClient(Refusal::UntrustedIssuer));
}

#[tokio::test]
async fn an_expired_node_is_refused_with_the_date() {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let mut tls = site.anonymous();
    tls.clock = clock_ahead(365 * 11 * DAY);
    let (error, refusal) = tokio::join!(why_refused(tls, node.address), node.refusal());
    let error = error.unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::NodeCertificate { problem: CertificateProblem::Expired { .. }, .. }
        ),
        "{error}"
    );
    let at = site.node_identity().facts().unwrap().not_after.to_string();
    assert!(error.to_string().contains(&at[..10]), "{error} should name {at}");
    assert!(
        matches!(refusal, HandshakeError::RefusedByClient(Refusal::CertificateExpired { .. })),
        "{refusal}"
    );
}

/// Goal: a site where every clock says 1970 works. What expired before this program was built is
/// refused all the same.
#[tokio::test]
async fn clocks_in_1970() {
    let in_1970 = || Clock::from_fn(|| SystemTime::UNIX_EPOCH);
    let authority = weir_transport::Authority::in_memory(&in_1970()).unwrap();
    let site = Site { authority };
    let mut listen = site.listen(ClientAuth::Required);
    listen.clock = in_1970();
    let mut node = Node::start(listen);
    let mut tls = site.known("young");
    tls.clock = in_1970();
    let endpoint = client(tls);
    let (of_client, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    echo(&of_client, &of_node).await;

    let facts = site.node_identity().facts().unwrap();
    assert_eq!(facts.not_before.as_date_time().unix_timestamp(), 0);
    assert!(facts.not_after.as_date_time() > build_date());

    let stale = CustomAuthority::new();
    let mut params = CertificateParams::default();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut listen = site.listen(ClientAuth::Required);
    listen.client_trust = stale.trust.clone();
    listen.clock = in_1970();
    let mut node = Node::start(listen);
    let old = site.anonymous().with_identity(stale.issue(params));
    let (lost, refusal) = tokio::join!(why_refused(old, node.address), node.refusal());
    assert!(
        matches!(refusal, HandshakeError::ClientCertificate(CertificateProblem::Expired { .. })),
        "{refusal}"
    );
    assert!(matches!(lost, Ok(ConnectionLost::Refused(_))));
}

#[tokio::test]
async fn the_server_name_can_be_another_one() {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    for name in ["weir", "localhost", "127.0.0.1", "edge-1"] {
        let connecting = endpoint.connect(node.address, Some(name), ClientProfile::Control);
        let (of_client, of_node) = tokio::join!(connecting, node.connection());
        of_client.unwrap_or_else(|error| panic!("{name}: {error}"));
        drop(of_node);
    }
    let connecting = endpoint.connect(node.address, Some("elsewhere"), ClientProfile::Control);
    let (error, refusal) = tokio::join!(connecting, node.refusal());
    let error = error.unwrap_err();
    let ConnectError::NodeCertificate { problem, .. } = &error else { panic!("{error}") };
    assert!(matches!(problem, CertificateProblem::WrongName { .. }), "{error}");
    assert!(error.to_string().contains("elsewhere"), "{error}");
    assert!(matches!(refusal, HandshakeError::RefusedByClient(_)), "{refusal}");
}

/// Goal: a client cannot pose as a node.
#[tokio::test]
async fn a_client_certificate_cannot_serve() {
    let site = Site::new();
    let mut listen = site.listen(ClientAuth::Optional);
    listen.identity = site.client_identity("weir");
    let mut node = Node::start(listen);
    let (error, refusal) =
        tokio::join!(why_refused(site.anonymous(), node.address), node.refusal());
    let error = error.unwrap_err();
    let ConnectError::NodeCertificate { problem, .. } = &error else { panic!("{error}") };
    assert_eq!(*problem, CertificateProblem::WrongPurpose { role: "server" });
    assert!(matches!(refusal, HandshakeError::RefusedByClient(_)), "{refusal}");
}

#[tokio::test]
async fn a_server_certificate_cannot_be_a_clients() {
    let site = Site::new();
    let custom = CustomAuthority::new();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut listen = site.listen(ClientAuth::Required);
    listen.client_trust = custom.trust.clone();
    let mut node = Node::start(listen);
    let tls = site.anonymous().with_identity(custom.issue(params));
    let (lost, refusal) = tokio::join!(why_refused(tls, node.address), node.refusal());
    let expected = CertificateProblem::WrongPurpose { role: "client" };
    assert_eq!(refusal, HandshakeError::ClientCertificate(expected));
    assert_eq!(lost.unwrap(), ConnectionLost::Refused(Refusal::WrongPurpose));
}

/// Goal: certificates of an operator's own authority work: the common name is the principal, and
/// one without a name is refused.
#[tokio::test]
async fn an_operators_own_authority() {
    let site = Site::new();
    let custom = CustomAuthority::new();
    let mut listen = site.listen(ClientAuth::Required);
    listen.client_trust = custom.trust.clone();
    let mut node = Node::start(listen);

    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Pumpe Süd");
    let endpoint = client(site.anonymous().with_identity(custom.issue(params)));
    let (_of_client, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    assert_eq!(of_node.peer().principal.as_deref(), Some("Pumpe Süd"));
    assert_eq!(of_node.peer().kind, PeerKind::Client);

    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let nameless = site.anonymous().with_identity(custom.issue(params));
    let (lost, refusal) = tokio::join!(why_refused(nameless, node.address), node.refusal());
    assert!(
        matches!(refusal, HandshakeError::ClientCertificate(CertificateProblem::NoPrincipal(_))),
        "{refusal}"
    );
    assert!(matches!(lost, Ok(ConnectionLost::Refused(_))));
}

#[tokio::test]
async fn both_sides_learn_why_a_connection_was_closed() {
    use weir_transport::CloseReason;
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let (of_client, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    of_node.close(CloseReason::Unauthorized, "no rule names you");
    let lost = of_client.closed().await;
    let message = "no rule names you".to_owned();
    assert_eq!(lost, ConnectionLost::ClosedByPeer { reason: CloseReason::Unauthorized, message });
    assert!(lost.to_string().contains("no rule names you"), "{lost}");
    assert_eq!(of_client.lost(), Some(lost));
    assert_eq!(of_node.lost(), Some(ConnectionLost::ClosedHere));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let site = Site::new();
    let one = site.authority.issue_client("one", DAY).unwrap();
    let other = site.authority.issue_client("other", DAY).unwrap();
    let error = Identity::from_pem(one.certificate.as_bytes(), other.key.as_bytes()).unwrap_err();
    assert!(matches!(error, weir_transport::IdentityError::Mismatch), "{error}");
    for garbage in
        [&b""[..], b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        assert!(Identity::from_pem(garbage, one.key.as_bytes()).is_err());
        assert!(Trust::from_pem(garbage).is_err());
    }
    assert!(Identity::from_pem(one.certificate.as_bytes(), b"garbage").is_err());
}

/// An authority that issues what ours never would.
struct CustomAuthority {
    issuer: Issuer<'static, KeyPair>,
    trust: Trust,
}

impl CustomAuthority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "custom");
        let certificate = params.self_signed(&key).unwrap();
        let trust = Trust::from_pem(certificate.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), trust }
    }

    fn issue(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }
}

/// Goal: a client that speaks another protocol is told so.
#[tokio::test]
async fn another_protocol_is_refused() {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let mut roots = rustls::RootCertStore::empty();
    let pem = site.authority.certificate_pem().as_bytes();
    let ca =
        <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(
            pem,
        );
    roots.add(ca.unwrap()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(config, node.address, "weir").unwrap();
    let (error, refusal) = tokio::join!(connecting, node.refusal());
    let lost = ConnectionLost::from(error.unwrap_err());
    assert_eq!(lost, ConnectionLost::Refused(Refusal::NoCommonProtocol));
    assert!(matches!(refusal, HandshakeError::Lost(_)), "{refusal}");
}
