// Package bench measures what a user pays for Airlock: size, memory, time to
// be ready, and what the whole chain costs a request, beside a request that
// goes to the origin directly in the same run.
package bench
