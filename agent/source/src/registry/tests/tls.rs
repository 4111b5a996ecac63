//! A server that speaks TLS with a certificate of an authority of its own, and may ask who we are.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::serve::Listener;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::server::{Play, Seen, Server};

/// Who signs certificates.
pub(super) struct Authority {
    certificate: Certificate,
    key: KeyPair,
}

/// Whether a server asks for our certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    Never,
    Politely,
    Insists,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority of tests");
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, key }
    }

    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }

    fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> (Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params
            .signed_by(&key, &self.certificate, &self.key)
            .unwrap();
        (certificate, key)
    }

    /// A certificate for a client and its key, as PEM.
    pub(super) fn client(&self) -> (String, String) {
        let (certificate, key) = self.sign(&["node"], ExtendedKeyUsagePurpose::ClientAuth);
        (certificate.pem(), key.serialize_pem())
    }

    /// A server at `https://127.0.0.1:PORT`, and how many connections to it came with a certificate.
    pub(super) async fn serve<P: Into<Play>>(
        &self,
        asks: Asks,
        play: impl Fn(&Seen) -> P + Send + Sync + 'static,
    ) -> (Server, Arc<AtomicUsize>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (certificate, key) = self.sign(&["127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        let builder = ServerConfig::builder();
        let builder = if asks == Asks::Never {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            let verifier = match asks {
                Asks::Insists => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().unwrap())
        };
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let shown = Arc::new(AtomicUsize::new(0));
        let listener = TlsListener {
            tcp: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            shown: Arc::clone(&shown),
            failures: Mutex::default(),
        };
        let host = listener.tcp.local_addr().unwrap().to_string();
        (
            Server::start_on(listener, host, move |_, seen| play(seen)),
            shown,
        )
    }
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    shown: Arc<AtomicUsize>,
    failures: Mutex<Vec<std::io::Error>>,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, from) = self.tcp.accept().await.unwrap();
            match self.acceptor.accept(stream).await {
                Ok(stream) => {
                    if stream.get_ref().1.peer_certificates().is_some() {
                        self.shown.fetch_add(1, Ordering::Relaxed);
                    }
                    return (stream, from);
                }
                Err(error) => self.failures.lock().unwrap().push(error),
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
