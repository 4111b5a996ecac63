//! libp2p's TLS with AES-128-GCM first.
//!
//! The stock upgrade prefers `ChaCha20`, which costs 40 % more processor time on
//! machines with AES instructions, and it writes session keys to the file that
//! `SSLKEYLOGFILE` names. This one speaks the same protocol with the same
//! certificates (libp2p's TLS specification), prefers AES, and logs no key.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p_tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName,
    ServerConfig, SignatureScheme,
};
use thiserror::Error;

/// Bytes of one read of the socket. rustls asks for 4 KiB at a time, which is a
/// system call for each quarter of a record.
const READ_LEN: usize = 64 << 10;
/// What libp2p calls this upgrade when the two ends negotiate.
const PROTOCOL: &str = "/tls/1.0.0";
/// The application protocol that libp2p's TLS specification demands.
const ALPN: &[u8] = b"libp2p";

/// Why a node cannot speak TLS.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// No certificate can be made.
    #[error("make a certificate for the node's key")]
    Certificate(#[source] certificate::GenError),
    /// rustls does not take the certificate or the cipher suites.
    #[error("configure TLS")]
    Configure(#[source] rustls::Error),
}

/// Both ends of the upgrade, ready to be used for any number of connections.
#[derive(Clone, Debug)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// The upgrade of a node with this key.
    ///
    /// # Errors
    /// [`TlsError`], for a key that TLS cannot show.
    pub fn new(keypair: &Keypair) -> Result<Self, TlsError> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            ..ring::default_provider()
        });
        let (certificate, key) = certificate::generate(keypair).map_err(TlsError::Certificate)?;
        let key = ring::sign::any_ecdsa_type(&key).map_err(TlsError::Configure)?;
        let shown = Arc::new(SingleCertAndKey::from(CertifiedKey::new(
            vec![certificate],
            key,
        )));
        let verifier = Arc::new(PeerCertificate);
        let versions = &[&rustls::version::TLS13];

        // `key_log` is left alone: rustls logs nothing unless told to.
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(TlsError::Configure)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(Arc::clone(&shown) as _);
        client.alpn_protocols = vec![ALPN.to_vec()];
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(TlsError::Configure)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(shown);
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }
}

/// Checks that a certificate proves a libp2p key. Whose key it is, the swarm
/// compares with the peer that was dialled.
#[derive(Debug)]
struct PeerCertificate;

impl PeerCertificate {
    fn check(
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        match certificate::parse(certificate) {
            Ok(_) => Ok(()),
            Err(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn check_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = certificate::parse(certificate).is_ok_and(|parsed| {
            parsed
                .verify_signature(signed.scheme, message, signed.signature())
                .is_ok()
        });
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
        ]
    }

    fn refuse_tls12() -> rustls::Error {
        rustls::Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13)
    }
}

impl ServerCertVerifier for PeerCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for PeerCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

fn buffered<C: AsyncRead>(socket: C) -> BufReader<C> {
    BufReader::with_capacity(READ_LEN, socket)
}

fn remote_peer(state: &CommonState) -> io::Result<PeerId> {
    match state.peer_certificates() {
        Some([one]) => certificate::parse(one)
            .map(|parsed| parsed.peer_id())
            .map_err(io::Error::other),
        _ => Err(io::Error::other("the peer showed no single certificate")),
    }
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

impl<C> InboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, TlsStream<BufReader<C>>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        Box::pin(async move {
            let stream = TlsAcceptor::from(self.server)
                .accept(buffered(socket))
                .await?;
            let peer = remote_peer(stream.get_ref().1)?;
            Ok((peer, stream.into()))
        })
    }
}

impl<C> OutboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, TlsStream<BufReader<C>>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        Box::pin(async move {
            // A server name is compulsory for rustls and unused by libp2p; an
            // address as name keeps it out of the hello.
            let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
            let stream = TlsConnector::from(self.client)
                .connect(name, buffered(socket))
                .await?;
            let peer = remote_peer(stream.get_ref().1)?;
            Ok((peer, stream.into()))
        })
    }
}
