//! Listening: the part that the client side and the peer side have in common.
//!
//! Ports are bound before anything else happens, by [`bind`], so that a taken port is reported before a data directory
//! is touched; connections that arrive meanwhile wait in the kernel's queue. [`Server::accept`] then serves one task
//! per connection.
//!
//! **The end comes in two steps**, because a connection on which a client is just beginning a request cannot be closed
//! without leaving it in doubt. [`Phase::Draining`]: nobody new is taken, every answer says that the connection closes
//! with it, and idle ones are left open, so that whoever sends on one still gets an answer. [`Phase::Over`]: idle
//! connections are closed, and requests that are being answered may finish.
//!
//! **Strangers** may connect, and say nothing, or nonsense, or the same thing for ever: [`limits`] has what that may cost.
//! What is turned away or cut off is counted, and the log tells of it now and then, not each time.
//!
//! **TLS** is spoken on a port that has certificates. The time for a first request includes the handshake, and a client
//! that speaks plain HTTP there is told so.
//!
//! What is left out: pipelining limits. One request of a connection is answered at a time.

pub mod limits;
mod watched;

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{HeaderValue, CONNECTION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout, timeout_at, Instant};
use tokio_rustls::server::TlsStream;

use crate::metrics::{ConnectionMetrics, Trouble};
use crate::tls::Tls;
use limits::{Limits, HEADER_MAX_BYTES};
use watched::Watched;

/// Pause after the system refused a connection (usually for want of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a client beyond the limit is told.
const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 49\r\n\r\n\
    not done: this node has too many connections now\n";

/// What a client is told that speaks plain HTTP where TLS is spoken.
const TLS_WANTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 45\r\n\r\n\
    this port speaks TLS: begin with https://...\n";

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

/// One port's side of the process.
#[derive(Clone)]
pub struct Server {
    /// What connections may cost.
    pub limits: Limits,
    /// What is spoken; `None` is plain HTTP.
    pub tls: Option<Tls>,
    /// What becomes of them.
    pub metrics: Arc<ConnectionMetrics>,
    /// How far the server is on its way to its end.
    pub phase: watch::Receiver<Phase>,
}

impl Server {
    /// Answers requests with `answer` until the phase says that it is over, then finishes those that have begun.
    pub async fn accept<A, F, B>(self, listener: TcpListener, answer: A) -> io::Result<()>
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        // Every connection holds a sender that is never used: when the last is dropped, all have ended.
        let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
        let serve = |stream: TcpStream| {
            let Some(counted) = self.admit(&stream) else { return };
            let (server, answer, open) = (self.clone(), answer.clone(), open.clone());
            tokio::spawn(async move {
                let _kept = (open, counted);
                server.connection(stream, answer).await;
            });
        };
        let mut draining = self.phase.clone();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => serve(stream),
                    Err(error) => {
                        self.metrics.tell(Trouble::Refused, &format_args!("cannot accept a connection: {error}"));
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

    /// Takes a connection, unless there are too many.
    fn admit(&self, stream: &TcpStream) -> Option<Open> {
        let open = Open::new(&self.metrics);
        if self.metrics.open.get() <= self.limits.connections {
            return Some(open);
        }
        let (who, limit) = (self.limits.who, self.limits.connections);
        self.metrics.tell(Trouble::Refused, &format_args!("refused a {who}: there are {limit} connections already"));
        // If there is no room for it, it is not said.
        let _ = stream.try_write(TOO_MANY_CONNECTIONS);
        None
    }

    async fn connection<A, F, B>(self, stream: TcpStream, answer: A)
    where
        A: Fn(Request<Incoming>) -> F,
        F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let from = stream.peer_addr().map_or_else(|error| error.to_string(), |address| address.to_string());
        // Answers are small and somebody waits for each.
        let _ = stream.set_nodelay(true);
        let deadline = Instant::now() + self.limits.first_request;
        let Some(tls) = &self.tls else {
            let stream = Watched::new(stream, self.limits.stalled);
            return self.speak(stream, &from, deadline, answer).await;
        };
        let mut phase = self.phase.clone();
        tokio::select! {
            secured = timeout_at(deadline, secure(stream, tls, self.limits.stalled)) => match secured {
                Ok(Ok(stream)) => self.speak(stream, &from, deadline, answer).await,
                Ok(Err(why)) => self.cut(Trouble::Handshake, &from, &why),
                Err(_) => self.cut(Trouble::Silent, &from, &format_args!("no request within {:?}", self.limits.first_request)),
            },
            () = reached(&mut phase, Phase::Over) => {}
        }
    }

    async fn speak<S, A, F, B>(&self, stream: S, from: &str, deadline: Instant, answer: A)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Fn(Request<Incoming>) -> F,
        F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let asked = AtomicBool::new(false);
        let service = service_fn(|request| {
            asked.store(true, Ordering::Relaxed);
            let (answering, phase) = (answer(request), self.phase.clone());
            async move {
                let mut response = answering.await?;
                if *phase.borrow() >= Phase::Draining {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.limits.idle).max_buf_size(HEADER_MAX_BYTES);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut phase = self.phase.clone();
        let mut patience = pin!(sleep_until(deadline));
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = patience.as_mut(), if !patience.is_elapsed() => {
                    if !asked.load(Ordering::Relaxed) {
                        let limit = self.limits.first_request;
                        self.cut(Trouble::Silent, from, &format_args!("no request within {limit:?}"));
                        return;
                    }
                }
                () = reached(&mut phase, Phase::Over) => {
                    connection.as_mut().graceful_shutdown();
                    break connection.await;
                }
            }
        };
        match ended {
            Ok(()) => {}
            Err(error) if error.is_parse() || error.is_parse_too_large() => self.cut(Trouble::Nonsense, from, &error),
            Err(error) if is_stalled(&error) => self.cut(Trouble::Stalled, from, &"it does not take its answer"),
            // It concerns its client only, who knows already. One that was idle for too long is among these.
            Err(error) => log::debug!("the connection of a {} at {from} broke: {error}", self.limits.who),
        }
    }

    fn cut(&self, trouble: Trouble, from: &str, why: &dyn Display) {
        let who = self.limits.who;
        self.metrics.tell(trouble, &format_args!("closed the connection of a {who} at {from}: {why}"));
    }
}

/// Shakes hands; the error says why not.
async fn secure(stream: TcpStream, tls: &Tls, stalled: Duration) -> Result<TlsStream<Watched<TcpStream>>, String> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) => return Err("it went away before it said anything".into()),
        Ok(_) if first.iter().all(u8::is_ascii_uppercase) => {
            // If there is no room for it, it is not said.
            let _ = stream.try_write(TLS_WANTED);
            return Err("it speaks plain http, and this port speaks TLS (https)".into());
        }
        Ok(_) => {}
        Err(error) => return Err(error.to_string()),
    }
    tls.acceptor().accept(Watched::new(stream, stalled)).await.map_err(|error| format!("TLS: {error}"))
}

/// Whether a write has waited for too long.
fn is_stalled(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// A connection that counts as open until this is dropped.
struct Open(Arc<ConnectionMetrics>);

impl Open {
    fn new(metrics: &Arc<ConnectionMetrics>) -> Open {
        metrics.accepted.add(1);
        metrics.open.up();
        Open(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.down();
    }
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

    fn server(limits: Limits, phase: watch::Receiver<Phase>) -> Server {
        Server { limits, tls: None, metrics: Arc::default(), phase }
    }

    fn run() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    /// A server that answers everything with this, and what it counts.
    fn answering(
        runtime: &tokio::runtime::Runtime,
        limits: Limits,
        body: &'static [u8],
    ) -> (SocketAddr, Arc<ConnectionMetrics>, watch::Sender<Phase>) {
        let listener = bind_host("127.0.0.1", 0).unwrap();
        let address = listener.local_addr().unwrap();
        let (phase, watched) = watch::channel(Phase::Serving);
        let server = server(limits, watched);
        let metrics = Arc::clone(&server.metrics);
        runtime.spawn(
            server.accept(listener, move |_| async move { Ok(Response::new(Full::new(Bytes::from_static(body)))) }),
        );
        (address, metrics, phase)
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn who_says_nothing_or_not_enough_or_nonsense_is_cut_off() {
        let runtime = run();
        let limits = Limits { first_request: Duration::from_millis(50), ..Limits::clients() };
        let (address, metrics, _phase) = answering(&runtime, limits, b"answer");
        let (mut silent, mut slow) = (connect(address), connect(address));
        slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
        for stream in [&mut silent, &mut slow] {
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        }
        assert_eq!(metrics.troubles(Trouble::Silent), 2);
        let mut nonsense = connect(address);
        nonsense.write_all(b"\x16\x03\x01 nonsense\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = nonsense.read_to_end(&mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", answer.escape_ascii());
        let mut endless = connect(address);
        endless.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        while endless.write_all(&[b'a'; 4096]).is_ok() {}
        while metrics.troubles(Trouble::Nonsense) < 2 || metrics.open.get() > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn an_idle_connection_is_closed_and_one_that_has_asked_in_time_is_not_cut() {
        let runtime = run();
        let limits =
            Limits { first_request: Duration::from_millis(50), idle: Duration::from_millis(400), ..Limits::clients() };
        let (address, metrics, _phase) = answering(&runtime, limits, b"answer");
        let mut stream = connect(address);
        stream.write_all(REQUEST).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(b"answer"));
        assert_eq!(metrics.troubles(Trouble::Silent), 0, "to be idle is no fault");
    }

    #[test]
    fn who_does_not_take_its_answer_is_cut_off() {
        let runtime = run();
        let limits = Limits { stalled: Duration::from_millis(100), ..Limits::clients() };
        static LARGE: [u8; 64 << 20] = [7; 64 << 20];
        let (address, metrics, _phase) = answering(&runtime, limits, &LARGE);
        let mut stream = connect(address);
        stream.write_all(REQUEST).unwrap();
        while metrics.troubles(Trouble::Stalled) == 0 || metrics.open.get() > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn connections_beyond_the_limit_are_turned_away_and_the_others_stay() {
        let runtime = run();
        let limits = Limits { connections: 2, ..Limits::clients() };
        let (address, metrics, _phase) = answering(&runtime, limits, b"answer");
        let (mut first, second) = (connect(address), connect(address));
        while metrics.open.get() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut third = connect(address);
        let mut told = String::new();
        third.read_to_string(&mut told).unwrap();
        let (header, body) = told.split_once("\r\n\r\n").unwrap();
        assert!(header.starts_with("HTTP/1.1 503 ") && header.ends_with(&format!("Content-Length: {}", body.len())));
        assert_eq!(metrics.troubles(Trouble::Refused), 1);
        let mut answer = [0; 15];
        first.write_all(REQUEST).unwrap();
        first.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        drop(second);
        while metrics.open.get() > 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut fourth = connect(address);
        fourth.write_all(REQUEST).unwrap();
        fourth.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }

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
        let runtime = run();
        let listener = bind_host("127.0.0.1", 0).unwrap();
        let address = listener.local_addr().unwrap();
        let (phase, watched) = watch::channel(Phase::Serving);
        let (begun, go_on) = (std::sync::Arc::new(Notify::new()), std::sync::Arc::new(Notify::new()));
        let gates = (begun.clone(), go_on.clone());
        let server = server(Limits::clients(), watched);
        let server = runtime.spawn(server.accept(listener, move |request: Request<Incoming>| {
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
