//! Listening: the part that the client side and the peer side have in common.
//!
//! Ports are bound before anything else happens, by [`bind`], so that a taken port is reported before a data directory
//! is touched; connections that arrive meanwhile wait in the kernel's queue. [`accept`] then serves one task per
//! connection.
//!
//! **The end comes in two steps**, because a connection on which a client is just beginning a request cannot be closed
//! without leaving it in doubt. [`Phase::Draining`]: nobody new is taken, every answer says that the connection closes
//! with it, and idle ones are left open, so that whoever sends on one still gets an answer. [`Phase::Over`]: idle
//! connections are closed, and requests that are being answered may finish.
//!
//! What is left out: limits on the number of connections and on slow clients, beyond the time a header may take.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{HeaderValue, CONNECTION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Pause after the system refused a connection (usually for want of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens on `port` of `address`, or of all addresses, IPv6 as well as IPv4 where the system has both.
pub fn bind(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    match address {
        Some(address) => listen(&[SocketAddr::from((address, port))]),
        None => match listen(&[SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))]) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            // No IPv6 here.
            Err(_) => listen(&[SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]),
            listener => listener,
        },
    }
}

/// Listens on the address that a host name stands for.
pub fn bind_host(host: &str, port: u16) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    listen(&addresses)
}

fn listen(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addresses)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// How far a server is on its way to its end. They follow in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everybody is welcome.
    Serving,
    /// Whoever is here may finish.
    Draining,
    /// Only what has begun is finished.
    Over,
}

/// Answers requests with `answer` until `phase` says that it is over, then finishes those that have begun.
///
/// `header_timeout` limits how long a connection may take for a request's header, idle time before it included.
pub async fn accept<A, F, B>(
    listener: TcpListener,
    header_timeout: Option<Duration>,
    phase: watch::Receiver<Phase>,
    answer: A,
) -> io::Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    // Every connection holds a sender that is never used: when the last is dropped, all have ended.
    let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
    let serve = |stream: TcpStream| {
        // Answers are small and somebody waits for each.
        let _ = stream.set_nodelay(true);
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(header_timeout);
        let (answer, seen) = (answer.clone(), phase.clone());
        let service = service_fn(move |request| {
            let (answering, seen) = (answer(request), seen.clone());
            async move {
                let mut response = answering.await?;
                if *seen.borrow() >= Phase::Draining {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let (mut phase, open) = (phase.clone(), open.clone());
        tokio::spawn(async move {
            let _open = open;
            tokio::pin!(connection);
            // A connection that fails concerns its client only, who knows already.
            tokio::select! {
                _ = connection.as_mut() => return,
                () = reached(&mut phase, Phase::Over) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    };
    let mut draining = phase.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => serve(stream),
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = reached(&mut draining, Phase::Draining) => break,
        }
    }
    // Those who wait in the kernel's queue believe to be connected, and may have sent a request.
    while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
        serve(stream);
    }
    // New connections are refused from here on.
    drop(listener);
    drop(open);
    while all_closed.recv().await.is_some() {}
    Ok(())
}

/// Waits for this phase, or a later one.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // An error means that whoever could tell is gone.
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use tokio::sync::Notify;

    #[test]
    fn a_taken_port_is_an_error() {
        let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(bind_host("127.0.0.1", port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(bind(None, port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn all_addresses_are_served() {
        let listener = bind(None, 0).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    }

    #[test]
    fn the_end_comes_in_two_steps() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = bind_host("127.0.0.1", 0).unwrap();
        let address = listener.local_addr().unwrap();
        let (phase, watched) = watch::channel(Phase::Serving);
        let (begun, go_on) = (std::sync::Arc::new(Notify::new()), std::sync::Arc::new(Notify::new()));
        let gates = (begun.clone(), go_on.clone());
        let server = runtime.spawn(accept(listener, None, watched, move |request| {
            let (begun, go_on) = gates.clone();
            async move {
                if request.uri().path() == "/slow" {
                    begun.notify_one();
                    go_on.notified().await;
                }
                Ok(Response::new(Full::new(Bytes::from_static(b"finished"))))
            }
        }));
        let connect = |path: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        };
        let answer = |stream: &mut TcpStream| {
            let mut answer = Vec::new();
            while !answer.ends_with(b"finished") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                answer.push(byte[0]);
            }
            String::from_utf8(answer).unwrap()
        };
        let (mut idle, mut late) = (connect("/"), connect("/"));
        for stream in [&mut idle, &mut late] {
            assert!(!answer(stream).contains("connection: close"));
        }
        let mut busy = connect("/slow");
        runtime.block_on(begun.notified());

        phase.send(Phase::Draining).unwrap();
        let refused = || TcpStream::connect(address).is_err();
        while !refused() {
            std::thread::sleep(Duration::from_millis(5));
        }
        late.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(answer(&mut late).contains("connection: close"), "whoever is here is answered, and told to go");
        assert_eq!(late.read(&mut [0]).unwrap(), 0);

        phase.send(Phase::Over).unwrap();
        assert_eq!(idle.read(&mut [0]).unwrap(), 0, "closed by the server");
        assert!(!server.is_finished(), "somebody still waits for an answer");
        go_on.notify_one();
        assert!(answer(&mut busy).contains("connection: close"));
        runtime.block_on(server).unwrap().unwrap();
    }
}
