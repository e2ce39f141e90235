"""How the page looks, and the little that moves on it.

Policies are told apart by colour (Okabe and Ito's set, made for the colour-blind), dash and shape of the mark.
"""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--dim:#5b6570;--paper:#fff;--card:#f6f7f9;--line:#d5dae0;--heat:#08519c;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b0549a;--c4:#c98500;--c5:#3f9fd8;--c6:#5b4a9e;--c7:#6b6b6b}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--dim:#a3adb8;--paper:#14171a;--card:#1d2125;--line:#3a4149;
--heat:#7cc4ff;--c0:#4aa8e0;--c1:#ff8a3d;--c2:#2fc79a;--c3:#e08cc8;--c4:#f0b429;--c5:#8fd0f5;--c6:#a794ec;--c7:#b5b5b5}}
*{box-sizing:border-box}
body{margin:0 auto;padding:16px;max-width:1180px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.2em 0}h2{font-size:1.15rem;margin:1.6em 0 .4em}
p{margin:.3em 0;max-width:75ch}.dim,small{color:var(--dim)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.3em .7em;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
tr.best td{color:var(--dim)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:14px;margin-top:12px}
figure{margin:0;padding:10px;background:var(--card);border-radius:8px}
figcaption{font-weight:600;font-size:.95rem}figcaption small{display:block;font-weight:400}
svg{width:100%;height:auto;display:block;overflow:visible}
text{fill:var(--dim);font:12px system-ui,sans-serif}text.label{font-size:13px}text.name{fill:var(--ink);font-size:13px}
.grid{stroke:var(--line);stroke-width:.6;fill:none}.frame{stroke:var(--dim);fill:none}
.line{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke:var(--c)}.mark{fill:var(--c);stroke:var(--card)}
.heat{fill:var(--heat)}.best{--c:var(--dim);stroke-dasharray:2 4;stroke-width:1.6}
.p0{--c:var(--c0)}.p1{--c:var(--c1)}.p2{--c:var(--c2)}.p3{--c:var(--c3)}
.p4{--c:var(--c4)}.p5{--c:var(--c5)}.p6{--c:var(--c6)}.p7{--c:var(--c7)}
.line.thin{stroke-width:1.1}.line.d1{stroke-dasharray:7 3}.line.d2{stroke-dasharray:2 3}
.legend{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;gap:6px;padding:8px 0;background:var(--paper)}
.legend button{display:flex;align-items:center;gap:6px;padding:3px 10px;border:1px solid var(--line);border-radius:14px;
background:var(--card);color:var(--ink);font:inherit;font-size:.9rem;cursor:pointer}
.legend button[aria-pressed=true]{border-color:var(--ink)}.swatch{width:32px;flex:none}
details{margin-top:14px}summary{font-weight:600;cursor:pointer}
.faint{opacity:.12}
"""

SCRIPT = """
let chosen=null;const all=[...document.querySelectorAll('.charts .line:not(.best),.charts .mark')];
function show(s){for(const e of all)e.classList.toggle('faint',s!==null&&!e.classList.contains('s'+s));}
for(const b of document.querySelectorAll('.legend button[data-s]')){const s=b.dataset.s;
b.onmouseenter=()=>show(s);b.onmouseleave=()=>show(chosen);
b.onclick=()=>{chosen=chosen===s?null:s;for(const o of document.querySelectorAll('.legend button[data-s]'))
o.setAttribute('aria-pressed',o.dataset.s===chosen);show(chosen);};}
"""
