// browser.mjs URL OUT WORKFLOW.json...: drop each workflow on the canvas of a running ComfyUI, press Run, see whether its
// videos play. Writes OUT/NAME.json, OUT/NAME.png, and OUT/NAME.graph.png of the graph before it ran.
import fs from 'fs';
import path from 'path';
import { boxes, drop, ended, fit, look, playing, press, visit } from './frontend.mjs';

const [url, out, ...files] = process.argv.slice(2);
const large = { width: 2000, height: 1000 }, small = { width: 800, height: 500 }; // to be looked at, and quick to draw

await visit(url, async page => {
  for (const file of files) {
    const name = path.basename(file, '.json'), seen = {};
    try {
      await drop(page, path.basename(file), fs.readFileSync(file, 'utf8'));
      Object.assign(seen, await look(page), { boxes: await boxes(page) });
      await page.mouse.move(0, 0); // off the button, which would explain itself
      await fit(page);
      await page.screenshot({ path: path.join(out, name + '.graph.png') });
      if (!seen.missing.length) {
        await press(page);
        await page.setViewportSize(small);
        Object.assign(seen, await ended(page));
        await page.setViewportSize(large);
        await fit(page);
        Object.assign(seen, { playing: await playing(page), boxes: await boxes(page) });
      }
    } catch (error) {
      seen.error = String(error).slice(0, 2000);
    }
    await page.screenshot({ path: path.join(out, name + '.png') });
    fs.writeFileSync(path.join(out, name + '.json'), JSON.stringify(seen, null, 1));
  }
}, large);
