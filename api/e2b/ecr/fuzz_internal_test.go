package ecr

import (
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
)

// FuzzAnswer reads what might come back instead of AWS's answer.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"authorizationData":[{"authorizationToken":"QVdTOng="}]}`))
	f.Add(200, []byte(`{"authorizationData":[{"authorizationToken":7}]}`))
	f.Add(400, []byte(`{"__type":"a#b","message":"c"}`))
	f.Add(400, []byte(`{"__type":"#"}`))
	f.Fuzz(func(t *testing.T, status int, answer []byte) {
		if login, err := parse(answer); err == nil && (login.User == "" || login.Password == "" || strings.Contains(login.User, ":")) {
			t.Errorf("%q: %+v", answer, login)
		}
		if err := refused(status, answer); soulbox.KindOf(err) != soulbox.Invalid && soulbox.KindOf(err) != soulbox.Unavailable || len(err.Error()) > 2000 {
			t.Errorf("%d %q: %v", status, answer, err)
		}
	})
}
