package httpretry

// errnoOutcome classifies nothing: system calls of Plan 9 return texts.
func errnoOutcome(error) (outcome Outcome, known bool) { return Uncertain, false }
