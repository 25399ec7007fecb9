package registry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"
)

// cloneOf returns a world that is as w is, and shares nothing with it that changes.
func cloneOf(w *registryWorld) *registryWorld {
	c := cloners.Get().(*cloner)
	defer cloners.Put(c)
	clear(c.copies)
	c.copies = c.copies[:0]
	// In these there are markers, which entries point at.
	reg := c.copyOf(unsafe.Pointer(w.reg), registryLayout)
	for _, p := range w.peers {
		c.copyOf(unsafe.Pointer(p.cursor), cursorLayout)
	}
	registryLayout.unlink(c, reg)
	for _, cursor := range slices.Clone(c.copies[1 : 1+len(w.peers)]) {
		cursorLayout.unlink(c, cursor.to)
	}
	return (*registryWorld)(c.pointer(unsafe.Pointer(w), worldLayout))
}

var (
	cloners        = sync.Pool{New: func() any { return new(cloner) }}
	registryLayout = layoutOf(reflect.TypeFor[Registry]())
	cursorLayout   = layoutOf(reflect.TypeFor[Cursor]())
)

// cloner knows what was copied already.
type cloner struct{ copies []copied }

type copied struct {
	from, to unsafe.Pointer
	size     uintptr
}

// copyOf copies a struct, whose fields still point where they did.
func (c *cloner) copyOf(p unsafe.Pointer, l *layout) unsafe.Pointer {
	clone := reflect.New(l.Type)
	clone.Elem().Set(reflect.NewAt(l.Type, p).Elem())
	c.copies = append(c.copies, copied{p, clone.UnsafePointer(), l.Size()})
	return clone.UnsafePointer()
}

// pointer returns where the clone of what p points at, or into, is.
func (c *cloner) pointer(p unsafe.Pointer, l *layout) unsafe.Pointer {
	if p == nil {
		return nil
	}
	for _, was := range c.copies {
		if offset := uintptr(p) - uintptr(was.from); offset < was.size {
			return unsafe.Add(was.to, offset)
		}
	}
	clone := c.copyOf(p, l)
	l.unlink(c, clone)
	return clone
}

// unlink lets the fields of a copied struct point at copies, too.
func (l *layout) unlink(c *cloner, p unsafe.Pointer) {
	for _, f := range l.fields {
		if f.unlink != nil {
			f.unlink(c, unsafe.Add(p, f.offset))
		}
	}
}

// unlinkingOf tells how fields of a type are unlinked; nil: they needn't be.
func unlinkingOf(t reflect.Type) func(*cloner, unsafe.Pointer) {
	switch t {
	case reflect.TypeFor[time.Time](), reflect.TypeFor[sync.Mutex](), reflect.TypeFor[atomic.Int32]():
		return nil
	case reflect.TypeFor[map[string]bool]():
		return func(_ *cloner, p unsafe.Pointer) {
			m := (*map[string]bool)(p)
			*m = maps.Clone(*m)
		}
	case reflect.TypeFor[map[key]*entry]():
		entries := layoutOf(reflect.TypeFor[entry]())
		return func(c *cloner, p unsafe.Pointer) {
			m := (*map[key]*entry)(p)
			clone := make(map[key]*entry, len(*m))
			for _, e := range *m {
				e = (*entry)(c.pointer(unsafe.Pointer(e), entries))
				clone[e.key] = e
			}
			*m = clone
		}
	case reflect.TypeFor[map[*entry]*aside]():
		asides := layoutOf(reflect.TypeFor[aside]())
		return func(c *cloner, p unsafe.Pointer) {
			m := (*map[*entry]*aside)(p)
			clone := make(map[*entry]*aside, len(*m))
			for _, a := range *m {
				a = (*aside)(c.pointer(unsafe.Pointer(a), asides))
				clone[a.entry] = a
			}
			*m = clone
		}
	case reflect.TypeFor[map[*entry]*entry](), reflect.TypeFor[map[Change]fate](): // are empty between calls
		return func(_ *cloner, p unsafe.Pointer) { *(*unsafe.Pointer)(p) = nil }
	}
	switch t.Kind() {
	case reflect.Map:
		return func(_ *cloner, p unsafe.Pointer) { requireNoMap(t, p) }
	case reflect.Pointer:
		target := layoutOf(t.Elem())
		return func(c *cloner, p unsafe.Pointer) {
			at := (*unsafe.Pointer)(p)
			*at = c.pointer(*at, target)
		}
	case reflect.Struct:
		return layoutOf(t).unlink
	case reflect.Slice:
		unlink, size := unlinkingOf(t.Elem()), t.Elem().Size()
		return func(c *cloner, p unsafe.Pointer) {
			v := reflect.NewAt(t, p).Elem()
			if v.IsNil() {
				return
			}
			n := v.Len()
			clone := reflect.MakeSlice(t, n, n)
			reflect.Copy(clone, v)
			v.Set(clone)
			for i := 0; unlink != nil && i < n; i++ {
				unlink(c, unsafe.Add(clone.UnsafePointer(), uintptr(i)*size))
			}
		}
	}
	return nil
}

// requireNoMap is for maps of parts that no world of ours has.
func requireNoMap(t reflect.Type, p unsafe.Pointer) {
	if n := reflect.NewAt(t, p).Elem().Len(); n > 0 {
		panic(fmt.Sprintf("what of a %v?", t))
	}
}

// TestClonesGoOnLikeTheirOriginal takes clones amid random histories, and lets them
// go on beside the original.
func TestClonesGoOnLikeTheirOriginal(t *testing.T) {
	for range 300 {
		h := history{root: byte(rand.N(len(scopeRoots)))}
		w := h.play(t)
		for range 12 {
			m := rand.N(len(scopeMoves))
			before, clone := hashOf(w), cloneOf(w)
			require.Equal(t, before, hashOf(clone), "after %v", h)
			isMove := scopeMoves[m].play(clone, t)
			require.Equal(t, before, hashOf(w), "%s changed the original after %v", scopeMoves[m].name, h)
			require.True(t, isMove || hashOf(clone) == before, "%s did something after %v", scopeMoves[m].name, h)
			h.moves += string(rune(m))
			require.Equal(t, isMove, scopeMoves[m].play(w, t))
			require.Equal(t, hashOf(w), hashOf(clone), "after %v", h)
		}
		w.settle(t)
	}
}
