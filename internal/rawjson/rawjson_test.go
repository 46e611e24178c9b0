package rawjson_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/httpretry/httpretry/internal/rawjson"
)

var texts = []string{
	``, ` `, `null`, `true`, `false`, `nul`, `nulls`, `truefalse`, `{}`, `[]`, `{} `, "\t{\r\n}\n", `{}{}`, `{`, `[`, `]`, `}`, `,`, `:`,
	`""`, `"a`, `"a\`, `"\"`, `"\\"`, `"\u12"`, `"\u12fG"`, `"\u12fA"`, `"\x"`, "\"\t\"", "\"\x7f\"", "\"\xff\"", `"é"`,
	`0`, `-`, `-0`, `00`, `01`, `1.`, `.1`, `1.5`, `1e`, `1e+`, `1e-5`, `1E400`, `1.5e+3`, `+1`, `--1`, `1 2`, `0x1`, `1.e1`,
	`{"a":1}`, `{"a" : 1 , "b":[1, 2]}`, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1 "b":2}`, `{"a":1`, `{"a":1]`, `{1:1}`,
	`[1,]`, `[,1]`, `[1 2]`, `[1`, `[1}`, `[[],{}]`, `{"a":{"a":{}},"a":[]}`, `{"\u0061":1,"é":2,"` + "\xff" + `":3}`,
	strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000),
	strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001),
	strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000),
	strings.Repeat(`{"a":`, 10_001) + "1" + strings.Repeat("}", 10_001),
	strings.Repeat("[", 1<<20),
}

func TestValid(t *testing.T) {
	for _, text := range texts {
		if got, want := rawjson.Valid([]byte(text)), json.Valid([]byte(text)); got != want {
			t.Errorf("Valid(%.60q): got %t, want %t", text, got, want)
		}
	}
}

// TestValid_LongStrings has each byte at each place of a string, since long strings
// are read eight bytes at a time.
func TestValid_LongStrings(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			text := []byte(`"` + strings.Repeat("x", 20) + `"`)
			text[1+at] = byte(c)
			if got, want := rawjson.Valid(text), json.Valid(text); got != want {
				t.Errorf("Valid(%q): got %t, want %t", text, got, want)
			}
		}
	}
}

func TestMembers(t *testing.T) {
	for _, tc := range []struct{ name, object, want string }{
		{"members", ` { "a" : 1 , "b":[ {} ], "c":"}" } `, `a=1 b=[ {} ] c="}" `},
		{"none", `{ }`, ``},
		{"the same name twice", `{"a":1,"a":2}`, `a=1 a=2 `},
		{"escaped name", `{"\u0061\"":1}`, `a"=1 `},
		{"name that is not ASCII", `{"é":1}`, `é=1 `},
		{"name that is not UTF-8", "{\"\xff\":1}", "\uFFFD=1 "},
		{"empty name", `{"":1}`, `=1 `},
		{"an array", `["a",1]`, ``},
		{"a string", `"{}"`, ``},
		{"cut off in a value", `{"a":1,"b":[1`, `a=1 `},
		{"cut off in a name", `{"a":1,"b`, `a=1 `},
		{"nothing", ``, ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got strings.Builder
			for name, value := range rawjson.Members([]byte(tc.object)) {
				fmt.Fprintf(&got, "%s=%s ", name, value)
			}
			if got.String() != tc.want {
				t.Errorf("got %s, want %s", got.String(), tc.want)
			}
		})
	}
}

func TestElements(t *testing.T) {
	for _, tc := range []struct{ name, array, want string }{
		{"elements", ` [ 1 , {"a":[]},"]" ] `, `1 {"a":[]} "]" `},
		{"none", `[ ]`, ``},
		{"an object", `{"a":1}`, ``},
		{"cut off", `[1,[2`, `1 `},
		{"nothing", ``, ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got strings.Builder
			for value := range rawjson.Elements([]byte(tc.array)) {
				fmt.Fprintf(&got, "%s ", value)
			}
			if got.String() != tc.want {
				t.Errorf("got %s, want %s", got.String(), tc.want)
			}
		})
	}
}

func TestString(t *testing.T) {
	for _, text := range append(texts, `"plain"`, `"a\u00e9\n"`, "\"a\xffb\"", `"\ud800"`, `"a" `) {
		var want string
		err := json.Unmarshal([]byte(text), &want)
		wantOK := err == nil && text[0] == '"'
		if !wantOK {
			want = ""
		}
		if got, ok := rawjson.String([]byte(text)); got != want || ok != wantOK {
			t.Errorf("String(%.60q): got %q, %t, want %q, %t", text, got, ok, want, wantOK)
		}
	}
}

// FuzzValid compares the package with encoding/json.
func FuzzValid(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		valid := json.Valid(text)
		if got := rawjson.Valid(text); got != valid {
			t.Fatalf("Valid: got %t, want %t", got, valid)
		}
		// Values are found in any text, but are checked only in a valid one.
		members, elements := make(map[string]json.RawMessage), []json.RawMessage(nil)
		for name, value := range rawjson.Members(text) {
			members[string(name)] = value
		}
		for value := range rawjson.Elements(text) {
			elements = append(elements, value)
		}
		if !valid {
			return
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(text, &object) == nil && !sameMembers(members, object) {
			t.Fatalf("Members: got %q, want %q", members, object)
		}
		var array []json.RawMessage
		if json.Unmarshal(text, &array) == nil && !bytes.Equal(joined(elements), joined(array)) {
			t.Fatalf("Elements: got %q, want %q", elements, array)
		}
	})
}

func sameMembers(a, b map[string]json.RawMessage) bool {
	if len(a) != len(b) {
		return false
	}
	for name, value := range a {
		if !bytes.Equal(value, b[name]) {
			return false
		}
	}
	return true
}

func joined(values []json.RawMessage) []byte {
	var all []byte
	for _, value := range values {
		all = append(append(all, value...), '\n')
	}
	return all
}

// BenchmarkValid has encoding/json beside it.
func BenchmarkValid(b *testing.B) {
	text := []byte(`{"model":"small","messages":[{"role":"user","content":"` + strings.Repeat(`What is \"two\" plus two?\n`, 68) + `"}],"max_tokens":300}`)
	for name, valid := range map[string]func([]byte) bool{"rawjson": rawjson.Valid, "encoding/json": json.Valid} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if !valid(text) {
					b.Fatal("not valid")
				}
			}
		})
	}
}
