//! Opening a connection to a peer: the part that all channels have in common.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{handshake, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::address::PeerUrl;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to ask something on a connection. The connection closes when it is dropped.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// Connects; the error says why not.
pub(super) async fn open(url: &PeerUrl) -> Result<Sender, String> {
    let fail = |error: &dyn std::fmt::Display| format!("cannot connect: {error}");
    let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect((url.host(), url.port()))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(fail(&error)),
        Err(_) => return Err(fail(&"timed out")),
    };
    // Messages are small and somebody waits for each.
    stream.set_nodelay(true).map_err(|error| fail(&error))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| fail(&error))?;
    // The connection's own task; it ends when either side closes, and `sender` is told of any error.
    tokio::spawn(connection);
    Ok(sender)
}
