package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/httpretry/httpretry"
	"golang.org/x/time/rate"
)

// A contender is a way to pace attempts.
type contender struct {
	name string
	make func(processes int) httpretry.Pacer // for each process; nil: none
}

var (
	unpaced  = contender{name: "none"}
	adaptive = contender{"`AdaptivePacer`", func(int) httpretry.Pacer { return new(httpretry.AdaptivePacer) }}

	contenders = []contender{
		unpaced,
		{"AWS SDK, adaptive mode", func(int) httpretry.Pacer { return awsAdaptive() }},
		{"failsafe-go, adaptive limiter", func(int) httpretry.Pacer { return failsafeAdaptive() }},
		{"`x/time/rate`, 20 % too high", timeRate(1.2)},
		{"`x/time/rate`, exact", timeRate(1)},
		{"`x/time/rate`, 20 % too low", timeRate(0.8)},
		adaptive,
	}
)

// A waiting is a [httpretry.Pacer] that waits for the backoff, and then for a
// permission.
type waiting func(ctx context.Context) (done func(httpretry.Attempt), err error)

func (waiting) Delay(*http.Request) time.Duration { return 0 }

func (w waiting) Wait(ctx context.Context, _ *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	time.Sleep(backoff)
	return w(ctx)
}

// timeRate is golang.org/x/time/rate, with a fixed part of the limit.
func timeRate(part float64) func(processes int) httpretry.Pacer {
	return func(processes int) httpretry.Pacer {
		l := rate.NewLimiter(rate.Limit(part*limitPerSecond/float64(processes)), 1)
		return waiting(func(ctx context.Context) (func(httpretry.Attempt), error) { return nil, l.Wait(ctx) })
	}
}

// awsAdaptive is the rate limiter of the AWS SDK's adaptive retry mode.
func awsAdaptive() httpretry.Pacer {
	throttled := errors.New("throttled")
	mode := retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
		// Its own wait may be rounded down to 0, which is endless in virtual time.
		o.FailOnNoAttemptTokens = true
		o.Throttles = []retry.IsErrorThrottle{retry.IsErrorThrottleFunc(func(err error) aws.Ternary { return aws.BoolTernary(err == throttled) })}
	})
	return waiting(func(ctx context.Context) (func(httpretry.Attempt), error) {
		release, err := mode.GetAttemptToken(ctx)
		for err != nil {
			time.Sleep(10 * time.Millisecond)
			release, err = mode.GetAttemptToken(ctx)
		}
		return func(a httpretry.Attempt) {
			if refused(a) {
				release(throttled)
			} else {
				release(nil)
			}
		}, nil
	})
}

// failsafeAdaptive is failsafe-go's adaptive limiter.
func failsafeAdaptive() httpretry.Pacer {
	l := adaptivelimiter.NewWithDefaults[any]()
	return waiting(func(ctx context.Context) (func(httpretry.Attempt), error) {
		permit, err := l.AcquirePermit(ctx)
		if err != nil {
			return nil, err
		}
		return func(a httpretry.Attempt) {
			if refused(a) {
				permit.Drop()
			} else {
				permit.Record()
			}
		}, nil
	})
}

func refused(a httpretry.Attempt) bool { return a.Verdict.Outcome != httpretry.Final }
