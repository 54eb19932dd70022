//! Opening a connection to a peer: the part that all channels have in common, TLS included.
//!
//! The peer's URL says whether it speaks TLS, and this node's own does, too; a cluster in which they differ does not come
//! together, and the log says why. A peer must show a certificate that the peers' CA vouches for and that names the host in
//! its URL.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::client::conn::http1::{handshake, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::Error as RustlsError;

use super::peer::Link;
use crate::tls::Tls;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// The way to ask something on a connection. The connection closes when it is dropped.
pub(super) type Sender<B = Full<Bytes>> = SendRequest<B>;

/// What a request's body must be to be sent.
pub(super) trait Posted: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static {}

impl<B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static> Posted for B {}

/// Connects, for requests with bodies of this kind; the error says why not.
pub(super) async fn open<B: Posted>(link: &Link) -> Result<Sender<B>, String> {
    let url = &link.url;
    let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect((url.host(), url.port()))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(fail(&error)),
        Err(_) => return Err(fail(&"timed out")),
    };
    // Messages are small and somebody waits for each.
    stream.set_nodelay(true).map_err(|error| fail(&error))?;
    match (url.is_secure(), &link.tls) {
        (false, None) => speak(stream).await,
        (true, Some(tls)) => secure(stream, url.host(), tls).await,
        (true, None) => Err(fail(&"its URL begins with https://, and this node's own does not")),
        (false, Some(_)) => Err(fail(&"its URL begins with http://, and this node's own with https://")),
    }
}

fn fail(error: &dyn Display) -> String {
    format!("cannot connect: {error}")
}

async fn secure<B: Posted>(stream: TcpStream, host: &str, tls: &Tls) -> Result<Sender<B>, String> {
    let connector = tls.connector().ok_or_else(|| fail(&"this node trusts nobody: it has no CA for peers"))?;
    let name = ServerName::try_from(host.to_string()).map_err(|error| fail(&error))?;
    match timeout(HANDSHAKE_TIMEOUT, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => speak(stream).await,
        Ok(Err(error)) => {
            let source = error.get_ref().and_then(|source| source.downcast_ref::<RustlsError>());
            let no_tls = matches!(source, Some(RustlsError::InvalidMessage(_)));
            let hint = if no_tls { " (does it speak plain http?)" } else { "" };
            Err(fail(&format_args!("TLS: {error}{hint}")))
        }
        Err(_) => Err(fail(&"the handshake of TLS timed out")),
    }
}

async fn speak<B: Posted>(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Sender<B>, String> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| fail(&error))?;
    // The connection's own task; it ends when either side closes, and `sender` is told of any error.
    tokio::spawn(connection);
    Ok(sender)
}
