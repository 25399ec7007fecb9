package registry

import (
	"encoding/binary"
	"hash/maphash"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// hashOf is the same for worlds that behave the same from here on: it covers all
// fields that are reached, whatever their names are. Places in the log and times
// count by their order only.
func hashOf(w *registryWorld) uint64 {
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	e.out, e.seen, e.places, e.times = e.out[:0], e.seen[:0], e.places[:0], e.times[:0]
	e.encode(reflect.ValueOf(w), "")
	e.rank(e.places)
	e.rank(e.times)
	e.bytes = e.bytes[:0]
	for _, n := range e.out {
		e.bytes = binary.NativeEndian.AppendUint64(e.bytes, n)
	}
	return maphash.Bytes(hashSeed, e.bytes)
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

var hashSeed = maphash.MakeSeed()

type encoder struct {
	out           []uint64
	seen          []unsafe.Pointer // a pointer counts as its index
	places, times []int            // of these in out

	bytes  []byte
	values []uint64
}

// Fields that decide nothing: what is counted, drawn up anew or only remembered by the model.
var undecisive = []string{"version", "last", "scratch", "pairs", "disliked", "truth", "missing", "retryDelay", "changed", "losesRefusals", "counts"}

// decisive are the other fields of a struct.
func decisive(t reflect.Type) []reflect.StructField {
	if fields, ok := decisiveFields.Load(t); ok {
		return fields.([]reflect.StructField)
	}
	fields := slices.DeleteFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool {
		return len(f.Index) > 1 || slices.Contains(undecisive, f.Name)
	})
	decisiveFields.Store(t, fields)
	return fields
}

var decisiveFields sync.Map // by their struct's type

func (e *encoder) put(n uint64) { e.out = append(e.out, n) }

func (e *encoder) encode(v reflect.Value, field string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			e.put(0)
			return
		}
		i := slices.Index(e.seen, v.UnsafePointer())
		e.put(uint64(i + 2))
		if i >= 0 {
			return
		}
		e.seen = append(e.seen, v.UnsafePointer())
		e.encode(v.Elem(), field)
	case reflect.Struct:
		switch v.Type() {
		case reflect.TypeFor[time.Time]():
			e.times = append(e.times, len(e.out))
			e.put(uint64(v.Field(1).Int()))
			return
		case reflect.TypeFor[sync.Mutex]():
			return
		}
		for _, f := range decisive(v.Type()) {
			e.encode(v.Field(f.Index[0]), f.Name)
		}
	case reflect.Slice:
		e.put(uint64(v.Len()))
		for i := range v.Len() {
			e.encode(v.Index(i), field)
		}
	case reflect.Map:
		if names, ok := namesOf(v); ok {
			e.put(uint64(len(names)))
			sum := uint64(0) // whatever their order
			for name, is := range names {
				sum += maphash.String(hashSeed, name) * (1 + 2*boolean(is))
			}
			e.put(sum)
			return
		}
		e.encodeMap(v)
	case reflect.Interface:
		e.encode(v.Elem(), field)
	case reflect.String:
		e.put(maphash.String(hashSeed, v.String()))
	case reflect.Bool:
		e.put(boolean(v.Bool()))
	case reflect.Uint64:
		if !slices.Contains([]string{"sent", "answered", "number", "reads", "settled"}, field) {
			e.places = append(e.places, len(e.out))
		}
		e.put(v.Uint())
	case reflect.Uint8, reflect.Uint16:
		e.put(v.Uint())
	case reflect.Int, reflect.Int64:
		e.put(uint64(v.Int()))
	}
}

// namesOf returns the map that v is, if it is one of names.
func namesOf(v reflect.Value) (map[string]bool, bool) {
	if v.Type() != reflect.TypeFor[map[string]bool]() {
		return nil, false
	}
	return *(*map[string]bool)(v.Addr().UnsafePointer()), true
}

func boolean(is bool) uint64 {
	if is {
		return 1
	}
	return 0
}

func (e *encoder) encodeMap(v reflect.Value) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(nameOf(a), nameOf(b)) })
	e.put(uint64(len(keys)))
	for _, k := range keys {
		e.put(maphash.String(hashSeed, nameOf(k)))
		e.encode(v.MapIndex(k), "")
	}
}

// nameOf is that of a map's key: a name, an entry or an entry's key.
func nameOf(k reflect.Value) string {
	switch k.Kind() {
	case reflect.String:
		return k.String()
	case reflect.Pointer:
		k = k.Elem().FieldByName("key")
	}
	if parent := k.Field(0); !parent.IsNil() {
		return nameOf(parent) + " " + k.Field(1).String()
	}
	return k.Field(1).String()
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
