package natsqueue

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

func stateKey(token string) string               { return "state." + token }
func startKey(token string, id queue.ID) string  { return "start." + token + "." + string(id) }
func excuseKey(token string, id queue.ID) string { return "excuse." + token + "." + string(id) }

// A workerReport is the value of a worker.
type workerReport struct {
	queue.WorkerState
	Name string `json:"name"`
	Only string `json:"only"` // the token of its job; empty: all jobs
}

// A seenWorker is a worker that has reported.
type seenWorker struct {
	queue.WorkerStatus
	only string
}

// Jobs returns the state of each job, sorted by name.
func (b *broker) Jobs(ctx context.Context) (all []queue.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = b.repeat(ctx, func(ctx context.Context) error {
		all = nil
		records, err := b.records(ctx, "")
		if err != nil {
			return err
		}
		workers, err := b.workers(ctx)
		if err != nil {
			return err
		}
		for token, r := range records {
			if r.Canceled {
				continue
			}
			s, err := b.status(ctx, token, r.record, workers)
			if err != nil {
				return err
			}
			all = append(all, s)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b queue.Status) int { return cmp.Compare(a.Job, b.Job) })
	return all, err
}

// status returns the state of a job.
func (b *broker) status(ctx context.Context, token string, r *record, workers []seenWorker) (queue.Status, error) {
	s := queue.Status{Job: r.Name}
	entry, err := b.get(ctx, registryBucket, stateKey(token))
	switch {
	case err == nil:
		s.HeadSeen = entry.Created()
		err = json.Unmarshal(entry.Value(), &s.State)
	case isGone(err):
		err = nil
	}
	if err != nil {
		return s, err
	}
	// A job whose streams are being made has nothing waiting.
	info, err := b.workersInfo(ctx, token)
	if err == nil {
		s.Taken = info.NumAckPending
		s.Waiting = int(info.NumPending)
	} else if !isGone(err) {
		return s, err
	}
	results, err := b.js.Stream(ctx, resultsStream(token))
	if err == nil {
		s.Results = int(results.CachedInfo().State.Msgs)
	} else if !isGone(err) {
		return s, err
	}
	for _, w := range workers {
		if w.only == "" || w.only == token {
			s.Workers = append(s.Workers, w.WorkerStatus)
		}
	}
	return s, nil
}

// workers returns the workers that have reported lately, sorted by name.
func (b *broker) workers(ctx context.Context) ([]seenWorker, error) {
	keys, now, err := b.keys(ctx, workersBucket, ">")
	if err != nil {
		return nil, err
	}
	slices.Sort(keys)
	var workers []seenWorker
	for _, key := range keys {
		entry, err := b.get(ctx, workersBucket, key)
		if isGone(err) {
			continue
		}
		var r workerReport
		if err == nil {
			err = json.Unmarshal(entry.Value(), &r)
		}
		if err != nil {
			return nil, err
		}
		w := seenWorker{only: r.Only}
		w.Name, w.WorkerState, w.Seen = r.Name, r.WorkerState, entry.Created()
		w.Lapsed = now.Sub(w.Seen) > queue.LapseAfter
		workers = append(workers, w)
	}
	return workers, nil
}

// Cancel ends a job. A head that is alive removes the record when it has seen that the
// job was canceled.
func (b *broker) Cancel(ctx context.Context, job string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	token := token(job)
	for {
		r, revision, err := b.find(ctx, token)
		switch {
		case err != nil:
			return err
		case r == nil || r.Canceled:
			return queue.ErrNoJob
		case r.Owner == "":
			return b.repeat(ctx, func(ctx context.Context) error { return b.remove(ctx, token) })
		}
		r.Canceled = true
		// The requests of a canceled job are not needed to make room for its record.
		if _, err = b.write(ctx, token, r, revision, b.removeStreams); isOvertaken(err) {
			continue // by a renewal
		} else if err != nil {
			return err
		}
		return b.repeat(ctx, func(ctx context.Context) error { return b.removeStreams(ctx, token) })
	}
}
