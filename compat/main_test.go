package compat_test

import (
	"testing"

	"github.com/stripe/stripe-go/v83"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// It would report to standard error what the tests provoke.
	stripe.DefaultLeveledLogger = &stripe.LeveledLogger{Level: stripe.LevelNull}
	goleak.VerifyTestMain(m)
}
