package registry

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"go.uber.org/atomic"
)

// hashOf differs for worlds that may behave differently from here on: it covers all
// fields that are reached but for those that decide nothing. Places in the log and
// times count by their order only.
func hashOf(w *registryWorld) uint64 {
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	e.out, e.seen, e.places, e.times = e.out[:0], e.seen[:0], e.places[:0], e.times[:0]
	worldLayout.encode(e, unsafe.Pointer(w))
	e.rank(e.places)
	e.rank(e.times)
	return maphash.Bytes(hashSeed, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(e.out))), 8*len(e.out)))
}

var (
	encoders = sync.Pool{New: func() any { return new(encoder) }}
	hashSeed = maphash.MakeSeed()
)

type encoder struct {
	out           []uint64
	seen          []unsafe.Pointer // a pointer counts as its index
	places, times []int            // of these in out

	values []uint64
}

// Fields that decide nothing: what is counted, is empty between calls or is only
// remembered by the model.
var undecisive = []string{"version", "last", "scratch", "pairs", "disliked", "missing", "retryDelay", "changed", "counts"}

// Numbers that are no places in the log.
var counters = []string{"sent", "answered", "number", "reads", "settled"}

// layout is what hashOf and cloneOf know of a struct.
type layout struct {
	reflect.Type
	fields []layoutField
}

type layoutField struct {
	offset uintptr
	encode func(*encoder, unsafe.Pointer) // nil: it decides nothing
	unlink func(*cloner, unsafe.Pointer)  // nil: it shares nothing with what it was copied from
}

var (
	layouts     = make(map[reflect.Type]*layout)
	worldLayout = layoutOf(reflect.TypeFor[registryWorld]())
)

func layoutOf(t reflect.Type) *layout {
	if l := layouts[t]; l != nil {
		return l
	}
	l := &layout{Type: t}
	layouts[t] = l
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Name == "_" {
			continue
		}
		field := layoutField{f.Offset, encodingOf(f.Type, f.Name), unlinkingOf(f.Type)}
		if slices.Contains(undecisive, f.Name) {
			field.encode = nil
		}
		l.fields = append(l.fields, field)
	}
	return l
}

func (l *layout) encode(e *encoder, p unsafe.Pointer) {
	for _, f := range l.fields {
		if f.encode != nil {
			f.encode(e, unsafe.Add(p, f.offset))
		}
	}
}

// encodingOf tells how fields of a type are encoded; nil: they decide nothing.
func encodingOf(t reflect.Type, field string) func(*encoder, unsafe.Pointer) {
	switch t {
	case reflect.TypeFor[sync.Mutex](), reflect.TypeFor[atomic.Int32](): // and how many wait for it
		return nil
	case reflect.TypeFor[time.Time]():
		return func(e *encoder, p unsafe.Pointer) {
			e.times = append(e.times, len(e.out))
			e.put(uint64((*time.Time)(p).Sub(time.Time{})))
		}
	case reflect.TypeFor[error]():
		return func(e *encoder, p unsafe.Pointer) {
			if err := *(*error)(p); err != nil {
				e.text(err.Error())
			} else {
				e.put(0)
			}
		}
	case reflect.TypeFor[map[string]bool]():
		return func(e *encoder, p unsafe.Pointer) {
			names := *(*map[string]bool)(p)
			sum := uint64(0) // whatever their order
			for name, is := range names {
				sum += maphash.String(hashSeed, name) * (1 + 2*boolean(is))
			}
			e.put(uint64(len(names)))
			e.put(sum)
		}
	case reflect.TypeFor[map[key]*entry]():
		return encodingOfMap[key](func(e *entry) *entry { return e })
	case reflect.TypeFor[map[*entry]*aside]():
		return encodingOfMap[*entry](func(a *aside) *entry { return a.entry })
	}
	switch t.Kind() {
	case reflect.Pointer:
		target := layoutOf(t.Elem())
		return func(e *encoder, p unsafe.Pointer) { e.pointer(*(*unsafe.Pointer)(p), target) }
	case reflect.Struct:
		return layoutOf(t).encode
	case reflect.Slice:
		element, size := encodingOf(t.Elem(), field), t.Elem().Size()
		return func(e *encoder, p unsafe.Pointer) {
			s := *(*[]byte)(p) // for its first element and its length
			e.put(uint64(len(s)))
			for i := range len(s) {
				element(e, unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), uintptr(i)*size))
			}
		}
	case reflect.String:
		return func(e *encoder, p unsafe.Pointer) { e.text(*(*string)(p)) }
	case reflect.Bool:
		return func(e *encoder, p unsafe.Pointer) { e.put(boolean(*(*bool)(p))) }
	case reflect.Uint64:
		isPlace := !slices.Contains(counters, field)
		return func(e *encoder, p unsafe.Pointer) {
			if isPlace {
				e.places = append(e.places, len(e.out))
			}
			e.put(*(*uint64)(p))
		}
	case reflect.Int, reflect.Int64:
		return func(e *encoder, p unsafe.Pointer) { e.put(*(*uint64)(p)) }
	case reflect.Uint16:
		return func(e *encoder, p unsafe.Pointer) { e.put(uint64(*(*uint16)(p))) }
	case reflect.Uint8:
		return func(e *encoder, p unsafe.Pointer) { e.put(uint64(*(*uint8)(p))) }
	case reflect.Map:
		return func(_ *encoder, p unsafe.Pointer) { requireNoMap(t, p) }
	case reflect.Func, reflect.Chan: // tests' hooks, and what a watch waits on
		return nil
	}
	panic(fmt.Sprintf("what of a %v?", t))
}

// encodingOfMap encodes a map from entries, or from their keys, in the order of
// their names.
func encodingOfMap[K comparable, V any](entryOf func(*V) *entry) func(*encoder, unsafe.Pointer) {
	target := layoutOf(reflect.TypeFor[V]())
	return func(e *encoder, p unsafe.Pointer) {
		m := *(*map[K]*V)(p)
		var space [8]*V
		values := space[:0]
		for _, v := range m {
			values = append(values, v)
		}
		slices.SortFunc(values, func(a, b *V) int { return compareNames(entryOf(a), entryOf(b)) })
		e.put(uint64(len(values)))
		for _, v := range values {
			e.pointer(unsafe.Pointer(v), target)
		}
	}
}

func compareNames(a, b *entry) int {
	topic := func(e *entry) string {
		if e.parent != nil {
			return e.parent.name
		}
		return e.name
	}
	return cmp.Or(
		strings.Compare(topic(a), topic(b)),
		cmp.Compare(boolean(a.parent != nil), boolean(b.parent != nil)),
		strings.Compare(a.name, b.name),
		cmp.Compare(a.seq, b.seq),
	)
}

func (e *encoder) put(n uint64) { e.out = append(e.out, n) }

func (e *encoder) text(s string) { e.put(maphash.String(hashSeed, s)) }

func (e *encoder) pointer(p unsafe.Pointer, target *layout) {
	if p == nil {
		e.put(0)
		return
	}
	i := slices.Index(e.seen, p)
	e.put(uint64(i + 2))
	if i < 0 {
		e.seen = append(e.seen, p)
		target.encode(e, p)
	}
}

func boolean(is bool) uint64 {
	if is {
		return 1
	}
	return 0
}

// rank puts the order of numbers in their place.
func (e *encoder) rank(at []int) {
	values := e.values[:0]
	for _, j := range at {
		values = append(values, e.out[j])
	}
	e.values = values
	slices.Sort(values)
	values = slices.Compact(values)
	for _, j := range at {
		n, _ := slices.BinarySearch(values, e.out[j])
		e.out[j] = uint64(n)
	}
}
