//! The actors over a real database and real sockets.
