// Draws a table that sorts and filters. columns: [title, digits or null for a text]; rows: [link,
// value of each column ...]; sortColumn: the first order, largest values first. A link that begins
// with # leads to a place on the page.
const LIMIT = 500;  // rows that are drawn; all are sorted and filtered
let column = sortColumn, isDown = true;
const table = document.getElementById('items'), field = document.getElementById('filter');

function matches(row, word) {
  const found = word.match(/^(.+?)([<>])(-?[0-9.]+)$/);
  if (!found) return row.slice(1).some(value => String(value).toLowerCase().includes(word));
  const at = columns.findIndex(([title]) => title.toLowerCase().startsWith(found[1]));
  const value = at < 0 ? null : row[at + 1];
  return value !== null && (found[2] === '>' ? value > +found[3] : value < +found[3]);
}

function compare(a, b) {
  const x = a[column + 1], y = b[column + 1];
  if (x === null || y === null) return (x === null) - (y === null);  // unknown values last
  const order = typeof x === 'number' ? x - y : x.localeCompare(y);
  return isDown ? -order : order;
}

function draw() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = rows.filter(row => words.every(word => matches(row, word))).sort(compare);
  while (table.rows.length > 1) table.deleteRow(1);
  for (const [link, ...values] of shown.slice(0, LIMIT)) {
    const line = table.insertRow();
    values.forEach((value, at) => {
      const cell = line.insertCell(), digits = columns[at][1];
      const text = value === null ? '\u2013' : digits === null ? value : value.toFixed(digits);
      if (at === 0 && link) {
        const anchor = cell.appendChild(document.createElement('a'));
        anchor.href = link[0] === '#' ? link : encodeURI(link).replaceAll('#', '%23');
        anchor.textContent = text;
      } else cell.textContent = text;
      if (digits === null) cell.className = 'text';
    });
  }
  const more = shown.length > LIMIT ? `, the first ${LIMIT} are drawn` : '';
  document.getElementById('count').textContent = `${shown.length} of ${rows.length}${more}`;
}

[...table.rows[0].cells].forEach((head, at) => head.addEventListener('click', () => {
  isDown = at === column ? !isDown : columns[at][1] !== null;
  column = at;
  draw();
}));
field.addEventListener('input', draw);
draw();
