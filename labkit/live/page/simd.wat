;; What decoding a batch spends its time on, four numbers at a time (WebAssembly's 128-bit SIMD).
;;
;; simd.wasm is this text, assembled by wasmtime, byte for byte. After a change, in this folder:
;;   python -c "import wasmtime, pathlib; text = pathlib.Path('simd.wat').read_text();
;;   pathlib.Path('simd.wasm').write_bytes(wasmtime.wat2wasm(text))"
;;
;; decoder.js owns the memory and pads columns to 8, so no loop has a remainder. Addresses are in bytes;
;; all numbers are float32.
(module
  (memory (export "memory") 0)

  ;; y = x W + b. One inner step multiplies 4 rows by 8 columns; their 32 sums stay in registers. Rows are
  ;; taken by fours: x and y need room for `rows` rounded up to 4, and what the surplus holds is no matter.
  ;;   x: (rows, `in` rounded up to 8)   w: panels of 8 columns, (in, 8) each   b: (out)   y: (rows, out)
  (func (export "linear")
    (param $x i32) (param $w i32) (param $b i32) (param $y i32)
    (param $rows i32) (param $in i32) (param $out i32)
    (local $x_stride i32) (local $y_stride i32) (local $column i32) (local $row i32) (local $i i32)
    (local $from i32) (local $to i32) (local $panel i32)
    (local $x0 i32) (local $x1 i32) (local $x2 i32) (local $x3 i32)  ;; where the four rows are read
    (local $s v128) (local $wl v128) (local $wr v128)  ;; one input four times; its weights, left and right
    (local $l0 v128) (local $l1 v128) (local $l2 v128) (local $l3 v128)  ;; sums of the left 4 columns
    (local $r0 v128) (local $r1 v128) (local $r2 v128) (local $r3 v128)  ;; and of the right 4
    (local.set $x_stride
      (i32.shl (i32.and (i32.add (local.get $in) (i32.const 7)) (i32.const -8)) (i32.const 2)))
    (local.set $y_stride (i32.shl (local.get $out) (i32.const 2)))
    (loop $columns
      (local.set $from (local.get $x))
      (local.set $to (i32.add (local.get $y) (i32.shl (local.get $column) (i32.const 2))))
      (local.set $row (i32.const 0))
      (loop $samples
        (local.set $x0 (local.get $from))
        (local.set $x1 (i32.add (local.get $x0) (local.get $x_stride)))
        (local.set $x2 (i32.add (local.get $x1) (local.get $x_stride)))
        (local.set $x3 (i32.add (local.get $x2) (local.get $x_stride)))
        (local.set $from (i32.add (local.get $x3) (local.get $x_stride)))
        (local.set $l0 (v128.load (local.get $b)))
        (local.set $l1 (local.get $l0))
        (local.set $l2 (local.get $l0))
        (local.set $l3 (local.get $l0))
        (local.set $r0 (v128.load offset=16 (local.get $b)))
        (local.set $r1 (local.get $r0))
        (local.set $r2 (local.get $r0))
        (local.set $r3 (local.get $r0))
        (local.set $panel (local.get $w))
        (local.set $i (local.get $in))
        (loop $inputs
          (local.set $wl (v128.load (local.get $panel)))
          (local.set $wr (v128.load offset=16 (local.get $panel)))
          (local.set $s (v128.load32_splat (local.get $x0)))
          (local.set $l0 (f32x4.add (local.get $l0) (f32x4.mul (local.get $s) (local.get $wl))))
          (local.set $r0 (f32x4.add (local.get $r0) (f32x4.mul (local.get $s) (local.get $wr))))
          (local.set $s (v128.load32_splat (local.get $x1)))
          (local.set $l1 (f32x4.add (local.get $l1) (f32x4.mul (local.get $s) (local.get $wl))))
          (local.set $r1 (f32x4.add (local.get $r1) (f32x4.mul (local.get $s) (local.get $wr))))
          (local.set $s (v128.load32_splat (local.get $x2)))
          (local.set $l2 (f32x4.add (local.get $l2) (f32x4.mul (local.get $s) (local.get $wl))))
          (local.set $r2 (f32x4.add (local.get $r2) (f32x4.mul (local.get $s) (local.get $wr))))
          (local.set $s (v128.load32_splat (local.get $x3)))
          (local.set $l3 (f32x4.add (local.get $l3) (f32x4.mul (local.get $s) (local.get $wl))))
          (local.set $r3 (f32x4.add (local.get $r3) (f32x4.mul (local.get $s) (local.get $wr))))
          (local.set $x0 (i32.add (local.get $x0) (i32.const 4)))
          (local.set $x1 (i32.add (local.get $x1) (i32.const 4)))
          (local.set $x2 (i32.add (local.get $x2) (i32.const 4)))
          (local.set $x3 (i32.add (local.get $x3) (i32.const 4)))
          (local.set $panel (i32.add (local.get $panel) (i32.const 32)))
          (br_if $inputs (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
        (v128.store (local.get $to) (local.get $l0))
        (v128.store offset=16 (local.get $to) (local.get $r0))
        (local.set $to (i32.add (local.get $to) (local.get $y_stride)))
        (v128.store (local.get $to) (local.get $l1))
        (v128.store offset=16 (local.get $to) (local.get $r1))
        (local.set $to (i32.add (local.get $to) (local.get $y_stride)))
        (v128.store (local.get $to) (local.get $l2))
        (v128.store offset=16 (local.get $to) (local.get $r2))
        (local.set $to (i32.add (local.get $to) (local.get $y_stride)))
        (v128.store (local.get $to) (local.get $l3))
        (v128.store offset=16 (local.get $to) (local.get $r3))
        (local.set $to (i32.add (local.get $to) (local.get $y_stride)))
        (local.set $row (i32.add (local.get $row) (i32.const 4)))
        (br_if $samples (i32.lt_u (local.get $row) (local.get $rows))))
      (local.set $w (i32.add (local.get $w) (i32.shl (local.get $in) (i32.const 5))))
      (local.set $b (i32.add (local.get $b) (i32.const 32)))
      (local.set $column (i32.add (local.get $column) (i32.const 8)))
      (br_if $columns (i32.lt_u (local.get $column) (local.get $out)))))

  ;; e^x to 1 part in 10^7, x held to [-87, 88]: 2^n e^r with whole n and |r| <= ln(2) / 2, where ln(2) is
  ;; taken off in two parts and e^r is a polynomial (S. L. Moshier's Cephes library, expf).
  (func $exp (param $x v128) (result v128)
    (local $n v128) (local $r v128) (local $p v128)
    (local.set $x (f32x4.max (local.get $x) (f32x4.splat (f32.const -87))))
    (local.set $x (f32x4.min (local.get $x) (f32x4.splat (f32.const 88))))
    (local.set $n (f32x4.nearest (f32x4.mul (local.get $x) (f32x4.splat (f32.const 1.44269504)))))
    (local.set $r (f32x4.mul (local.get $n) (f32x4.splat (f32.const 0.693359375))))
    (local.set $r (f32x4.sub (local.get $x) (local.get $r)))
    (local.set $p (f32x4.mul (local.get $n) (f32x4.splat (f32.const 2.12194440e-4))))
    (local.set $r (f32x4.add (local.get $r) (local.get $p)))
    (local.set $p (f32x4.mul (local.get $r) (f32x4.splat (f32.const 1.9875691500e-4))))
    (local.set $p (f32x4.add (local.get $p) (f32x4.splat (f32.const 1.3981999507e-3))))
    (local.set $p (f32x4.mul (local.get $r) (local.get $p)))
    (local.set $p (f32x4.add (local.get $p) (f32x4.splat (f32.const 8.3334519073e-3))))
    (local.set $p (f32x4.mul (local.get $r) (local.get $p)))
    (local.set $p (f32x4.add (local.get $p) (f32x4.splat (f32.const 4.1665795894e-2))))
    (local.set $p (f32x4.mul (local.get $r) (local.get $p)))
    (local.set $p (f32x4.add (local.get $p) (f32x4.splat (f32.const 1.6666665459e-1))))
    (local.set $p (f32x4.mul (local.get $r) (local.get $p)))
    (local.set $p (f32x4.add (local.get $p) (f32x4.splat (f32.const 5.0000001201e-1))))
    (local.set $p (f32x4.mul (f32x4.mul (local.get $r) (local.get $r)) (local.get $p)))
    (local.set $p (f32x4.add (f32x4.add (local.get $r) (local.get $p)) (f32x4.splat (f32.const 1))))
    ;; 2^n: n + 127 is the exponent of a float32
    (local.set $n (i32x4.add (i32x4.trunc_sat_f32x4_s (local.get $n)) (i32x4.splat (i32.const 127))))
    (f32x4.mul (local.get $p) (i32x4.shl (local.get $n) (i32.const 23))))

  ;; x <- x tanh(log(1 + e^x)) in place, with one exponential, as in labkit.models.layers.Mish:
  ;; x n / (n + 2), n = w (w + 2), w = e^x, where x > 20 counts as 20 in w.
  (func (export "mish") (param $at i32) (param $count i32)
    (local $x v128) (local $n v128)
    (loop $next
      (local.set $x (v128.load (local.get $at)))
      (local.set $n (call $exp (f32x4.min (local.get $x) (f32x4.splat (f32.const 20)))))
      (local.set $n
        (f32x4.mul (local.get $n) (f32x4.add (local.get $n) (f32x4.splat (f32.const 2)))))
      (v128.store (local.get $at)
        (f32x4.div
          (f32x4.mul (local.get $x) (local.get $n))
          (f32x4.add (local.get $n) (f32x4.splat (f32.const 2)))))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (local.set $count (i32.sub (local.get $count) (i32.const 4)))
      (br_if $next (local.get $count))))

  ;; x <- 1 / (1 + e^-x) in place.
  (func (export "sigmoid") (param $at i32) (param $count i32)
    (local $w v128)
    (loop $next
      (local.set $w (call $exp (f32x4.neg (v128.load (local.get $at)))))
      (v128.store (local.get $at)
        (f32x4.div
          (f32x4.splat (f32.const 1))
          (f32x4.add (local.get $w) (f32x4.splat (f32.const 1)))))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (local.set $count (i32.sub (local.get $count) (i32.const 4)))
      (br_if $next (local.get $count)))))
