/** Photos that a person chooses, drops (folders too) or pastes, as `{file, name}`. */

const PHOTO = /\.(jpe?g|png|webp|hei[cf]|gif|tiff?|bmp)$/i;

let pastes = 0;

export function chosen(files) {
  return [...files].map((file) => ({ file, name: file.name }));
}

/** Photos from a clipboard, where every picture has the same name. */
export function pasted(files) {
  return [...files].map((file) => {
    const name = `pasted-${++pastes}.${file.type.split("/").pop()}`;
    return { file: new File([file], name, { type: file.type }), name };
  });
}

/**
 * Photos from a drop. Photos in dropped folders are named by their path.
 *
 * Must be called while the event is handled, because its data is empty afterwards.
 */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const folders = entries.filter((entry) => entry.isDirectory);
  if (!folders.length) return chosen(transfer.files);
  const found = await Promise.all(entries.map((entry) => walked(entry)));
  return found.flat();
}

async function walked(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    return [{ file, name: entry.fullPath.replace(/^\//, "") }];
  }
  const found = [];
  for (const each of await children(entry)) {
    if (each.isDirectory || (PHOTO.test(each.name) && !each.name.startsWith("."))) found.push(...(await walked(each)));
  }
  return found;
}

/** The entries of a folder. Browsers return a hundred at a time. */
async function children(folder) {
  const reader = folder.createReader();
  const every = [];
  for (let some; (some = await new Promise((done, failed) => reader.readEntries(done, failed))).length; ) every.push(...some);
  return every;
}
