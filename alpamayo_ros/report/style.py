"""Style sheet of report.html: light and dark, one column on small screens."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2330; --soft: #667085;
  --line: #e3e7ee; --good: #0a8f5b; --bad: #d92d20; --note: #fff7e6; --noteline: #f5c362; }
@media (prefers-color-scheme: dark) { :root { --page: #0f141c; --card: #171e29; --ink: #e6eaf0;
  --soft: #97a3b6; --line: #2a3444; --good: #34c98b; --bad: #ff6b5e; --note: #2c2413;
  --noteline: #8a6a1f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0; letter-spacing: -.02em; }
h2 { font-size: 18px; margin: 38px 0 12px; letter-spacing: -.01em; }
h3 { font-size: 15px; margin: 0; font-weight: 600; }
p { margin: 6px 0; }
.soft { color: var(--soft); }
.head { display: flex; gap: 14px; align-items: center; flex-wrap: wrap; }
.badge { padding: 3px 12px; border-radius: 99px; font-weight: 600; font-size: 13px; }
.badge.good { color: #fff; background: #0a8f5b; }
.badge.bad { color: #fff; background: #d92d20; }
.note { background: var(--note); border: 1px solid var(--noteline); border-radius: 10px;
  padding: 10px 14px; margin-top: 12px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin-top: 20px; }
.card, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.tile { padding: 14px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-weight: 650;
  letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.tile b small { font-size: 14px; font-weight: 500; }
.card { padding: 16px; overflow-x: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 12px; }
.case { margin-top: 16px; }
.case .views { display: grid; grid-template-columns: minmax(0, 2.4fr) minmax(230px, 1fr);
  gap: 14px; margin-top: 12px; align-items: start; }
@media (max-width: 820px) { .case .views { grid-template-columns: 1fr; } }
img { display: block; width: 100%; height: auto; border-radius: 8px; }
.case .above { max-width: 380px; margin: 0 auto; }
.missing { padding: 40px; text-align: center; border: 1px dashed var(--line);
  border-radius: 8px; }
blockquote { margin: 10px 0 0; padding: 2px 0 2px 12px; border-left: 3px solid #3b82f6; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
.words td:last-child { white-space: normal; overflow-wrap: anywhere; width: 100%; }
td small { color: var(--soft); }
tr.group td { padding-top: 14px; font-weight: 600; }
tr:last-child td { border-bottom: 0; }
.good { color: var(--good); } .bad { color: var(--bad); }
.chip { display: inline-block; border: 1px solid var(--line); border-radius: 99px;
  padding: 0 9px; margin: 0 4px 4px 0; font-size: 12.5px; color: var(--soft); }
.key { display: inline-block; width: 18px; height: 4px; border-radius: 2px; margin: 0 6px 3px 14px;
  vertical-align: middle; }
.key:first-child { margin-left: 0; }
summary { cursor: pointer; color: var(--soft); }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, monospace; }
"""
