// Package http1 implements HTTP/1.1 (RFC 9112) for both sides of a proxy: Server for the clients and
// Transport for the origins. HTTP/2 is left to net/http; the types of requests, responses and handlers
// are those of net/http.
//
// # Parsing
//
// Heads and bodies that two parsers could read differently are refused with a Violation before a
// handler sees them. Requests are parsed strictly. Responses of origins are parsed leniently where
// real servers need it, and are framed anew for the client. FuzzHeads compares the parser with
// net/http.
//
// # States of a server connection
//
// One goroutine serves a connection, from addConn to removeConn:
//
//	active   It waits for the head of its first request, or a request is being answered. Shutdown
//	         waits for it. The response to a request says "Connection: close" during a shutdown.
//	idle     It has answered a request and waits for the first byte of the next (setIdle). Shutdown
//	         may close it at any time (closeIdle), after the GoodbyeMessage if there is one.
//	closing  closeIdle has closed it; the goroutine notices at its next read.
//	hijacked A handler has taken the net.Conn. The server no longer closes it, but Shutdown waits
//	         until the handler returns, and closes it after the timeout.
//
// A connection that cannot be kept after a response is half-closed, and what the client still sends is
// read and dropped for a while (lingeringClose), so that the client is not reset before it has read the
// response.
//
// # Who reads the connection
//
// A connection has one connReader, whose buffer is reused for all messages. At any time one goroutine
// may use it: the serving goroutine for heads; the handler, or a goroutine of it, for the body, under
// the mutex of requestBody; and after the body (or if there is none) watchClient, which reads ahead to
// notice a disconnect. stopWatch and requestBody.discard take the connReader back when the handler has
// returned: each sets a read deadline in the past and waits until the other reader has stopped.
//
// Header values and bodies never alias the buffer: readHead copies a head into a string, and Read
// copies into the caller's slice. Only readLine returns a slice of the buffer, within this package.
//
// # States of a client connection
//
// A clientConn belongs either to the pool of its Transport or to one exchange. The exchange ends when
// the body of the response has been read to its end or closed: responseBody.release puts the
// connection back if the request was sent completely and no input follows, and else closes it. Before
// a pooled connection is used again, isReusable checks that it is open and that nothing has arrived.
// The goroutine that calls RoundTrip writes the request and reads the response; a streamed body is
// sent by a second goroutine, which ends with the body or when the connection is closed.
package http1
