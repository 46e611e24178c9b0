package natsqueue

import (
	"fmt"
	"sync"
	"time"
)

// noticeAfter is how long the servers must have confirmed nothing before that is an
// outage. It is longer than tryTimeout, so that a single request which is lost, such as
// during the election of a leader, is none.
const noticeAfter = 8 * time.Second

// An outage finds out when the servers respond to no request, whatever the reason: they
// are gone, suspended, or too few of them run. It is safe for concurrent use.
type outage struct {
	name   string       // of the queue, without secrets
	notice func(string) // nil: nobody is told

	mu        sync.Mutex
	responded time.Time // when a request succeeded last
	since     time.Time // when the first request began that failed after that; zero: none has
	noticed   bool
}

// failed notes that a request which began at start has failed, and may succeed later.
func (o *outage) failed(start time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		o.since = start
		if o.responded.After(start) {
			o.since = o.responded
		}
	}
	if o.noticed || time.Since(o.since) < noticeAfter {
		return
	}
	o.noticed = true
	o.tell("unreachable since %s; going on when it is back", o.since.Format(time.TimeOnly))
}

// succeeded notes that the servers have responded to a request.
func (o *outage) succeeded() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.noticed {
		o.tell("reachable again")
	}
	o.responded, o.since, o.noticed = time.Now(), time.Time{}, false
}

// tell calls notice. The lock is held, so that the notices are in order.
func (o *outage) tell(format string, args ...any) {
	if o.notice != nil {
		o.notice("queue " + o.name + ": " + fmt.Sprintf(format, args...))
	}
}
